"""Who may do what: tokens, keys and grants. It does no I/O and reads no clock."""
