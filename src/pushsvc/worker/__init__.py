"""The aggregator process: it owns partitions, reads their logs and writes statistics."""
