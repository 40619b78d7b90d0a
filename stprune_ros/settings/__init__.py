"""Every parameter once: the table, typed groups of checked values, and the files that hold them."""
