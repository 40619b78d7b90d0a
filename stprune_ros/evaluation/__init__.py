"""How well a model answers questions whose truth is known, and how much of that pruning keeps."""
