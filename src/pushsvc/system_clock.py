"""The wall clock in milliseconds, for rooms above the core. ``clock`` formats and parses such times."""

import time


def now_ms() -> int:
    """Return the present as milliseconds since 1970-01-01T00:00Z."""
    return int(time.time() * 1000)
