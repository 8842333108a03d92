"""Returns freed memory to the system."""

import ctypes
import sys
from collections.abc import Callable
from contextlib import suppress


def trimmer() -> Callable[[int], object] | None:
    """Return glibc's malloc_trim; None for another C library.

    glibc keeps what is freed between pieces that are still in use. After many large bodies and answers that was more
    than the process takes otherwise.
    """
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):
            function: Callable[[int], object] = ctypes.CDLL(None).malloc_trim
            return function
    return None


class Trimmer:
    """Trims once the held bytes have stayed below ``worth`` for some ``notes``, after they were above it."""

    def __init__(self, worth: int = 16_000_000, notes: int = 10, trim: Callable[[int], object] | None = None) -> None:
        self._worth, self._notes = worth, notes
        self._trim = trim or trimmer()
        self._left = 0

    def note(self, held: int) -> None:
        """Note how much is held now. A trim takes a few milliseconds."""
        if held >= self._worth:
            self._left = self._notes
        elif self._left:
            self._left -= 1
            if not self._left and self._trim is not None:
                self._trim(0)
