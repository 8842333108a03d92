"""Resume: brings a connection from its cursor to the live stream."""
