"""Feed: follows the watched logs and hands their entries to consumers."""
