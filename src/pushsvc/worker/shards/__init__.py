"""One topic, counted by several processes: each has a shard of the keys."""
