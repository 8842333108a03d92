"""Windows over the newest events: count windows and exact windows."""
