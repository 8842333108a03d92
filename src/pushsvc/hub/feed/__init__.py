"""Feed: gives the entries of followed logs to consumers."""
