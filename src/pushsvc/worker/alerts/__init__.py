"""The alerts of the partitions that a process owns: evaluating rules, sending their events, webhooks."""
