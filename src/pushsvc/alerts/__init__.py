"""Alerts: the conditions that are watched, and when they raise and resolve. No I/O, no clock."""
