"""Public sets of driving questions that a user has on disk: readers, answers, measures. A new set is one file here."""
