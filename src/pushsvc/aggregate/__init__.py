"""Turns log entries into statistics frames, without I/O and without a clock."""
