"""Prometheus metrics: buffered writes in each process, and one exposition for all processes of a supervisor."""
