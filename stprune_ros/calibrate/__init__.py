"""Hint scores against what was right on recorded drives: a correction fitted on some, judged on others."""
