"""The hub of a web process: it follows the logs that are subscribed to and fans their entries out."""
