"""`stprune init`: from what a bag or a running vehicle shows to a parameter file that works."""
