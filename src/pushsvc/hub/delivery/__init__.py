"""Delivery: sends the same bytes to many sockets."""
