"""`stprune bench`: how long selections and whole ticks take, what they hold in memory, and what they cost on paper."""
