"""A search for the requests that cost a server most per byte: ``python -m tests.hostile.search``."""
