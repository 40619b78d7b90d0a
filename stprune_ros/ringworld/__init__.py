"""A small synthetic driving world with known truth."""
