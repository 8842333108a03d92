"""Metrics of all processes of a host."""
