"""Many replays at once: bags times settings on Ray, one folder each, and an index of them all."""
