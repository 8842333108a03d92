"""Returns free memory to the system.

The allocator of glibc keeps what large messages and bodies leave free below memory that is in use: 10 to 60 MB after an
attack. It takes a few milliseconds at most to return it, and nothing if there is none.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGE = 1_000_000
_KEPT = 64_000_000  # free bytes at the end of the heap, which ``trimmer`` returns: glibc would at each 128 KB


def return_large_blocks() -> None:
    """Let blocks of a megabyte be returned when they are freed. glibc keeps larger and larger ones by itself."""
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)


def trimmer() -> Callable[[], None]:
    """Return a function that returns free memory; it does nothing where the allocator has no such call."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return lambda: None
    return lambda: trim(0)
