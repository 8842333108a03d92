"""Stands in front of the user's application: one port for its pages and for its streams."""
