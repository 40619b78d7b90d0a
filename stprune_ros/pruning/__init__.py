"""Token selection: pure functions from features to keep masks, torch only."""
