"""The wall clock in milliseconds, for rooms above the core. ``clock`` formats and parses such times."""

import time

_DRIFT = 1_000  # ms by which the two clocks of a machine may differ more or less than before


def now_ms() -> int:
    """Return the present as milliseconds since 1970-01-01T00:00Z."""
    return int(time.time() * 1000)


class ClockWatch:
    """Notices that the wall clock was set, or that the machine was suspended: only the wall clock goes on then."""

    def __init__(self) -> None:
        self._ahead = _ahead_of_monotonic()

    def was_set(self) -> bool:
        """Return whether the wall clock was set since the last such call."""
        ahead = _ahead_of_monotonic()
        if abs(ahead - self._ahead) <= _DRIFT:
            return False
        self._ahead = ahead
        return True


def _ahead_of_monotonic() -> int:
    return now_ms() - int(time.monotonic() * 1000)
