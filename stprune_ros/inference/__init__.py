"""One tick from frame sets to an answer. No ROS: node, replay, evaluation and bench run the same code."""
