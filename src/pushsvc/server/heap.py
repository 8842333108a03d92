"""Returns free memory to the system.

The allocator of glibc keeps what large messages and bodies leave free below memory that is in use: 10 to 60 MB after an
attack. It takes a few milliseconds at most to return it, and nothing if there is none.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress

_M_MMAP_THRESHOLD = -3
_LARGE = 1_000_000


def return_large_blocks() -> None:
    """Let blocks of a megabyte be returned when they are freed. glibc keeps larger and larger ones by itself."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)


def trimmer() -> Callable[[], None]:
    """Return a function that returns free memory; it does nothing where the allocator has no such call."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return lambda: None
    return lambda: trim(0)
