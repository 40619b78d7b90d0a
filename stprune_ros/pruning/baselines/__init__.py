"""Baselines: published and uninformed methods that the package's own ones are compared with."""
