"""A hot topic counted by several processes."""
