"""Memory: counts what a process holds for its clients, and chooses what it lets go. Pure."""
