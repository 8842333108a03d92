"""Pure aggregation: log entries in, statistics frames out. No I/O, no clock."""
