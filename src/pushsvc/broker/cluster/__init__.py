"""Where the primaries are: one server, Sentinels or a cluster."""
