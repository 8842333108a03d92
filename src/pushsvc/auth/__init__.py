"""Who may do what: tokens, keys and grants. Pure decisions, without I/O and without a clock."""
