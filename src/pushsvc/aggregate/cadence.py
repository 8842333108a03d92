"""Decides when updates may be sent."""

import numpy as np

from pushsvc.stats.arrays import Flags, Index, Ints

BYTES_PER_SECOND = 2_000_000
_NEVER = -(2**62)
EVER = 2**62  # ms of a time that does not come


class Cadence:
    """The time (ms) of the next update of each window [W] of each topic [T]; EVER or more for a suspended window.

    ``bytes_per_second`` bounds the updates of a topic in all windows: intervals are stretched to keep it.
    """

    STATE = ("_share", "_sent", "_rest", "_interval")

    def __init__(self, windows: int, bytes_per_second: int = BYTES_PER_SECOND) -> None:
        self._share = bytes_per_second / windows
        self._sent: Ints = np.full((windows, 0), _NEVER, np.int64)
        self._rest: Ints = np.zeros((windows, 0), np.int64)
        self._interval: Ints = np.zeros((windows, 0), np.int64)

    def open(self, topic: int, since: int, cadence: int) -> None:
        """Add a topic whose first updates may be sent from ``since`` on."""
        more = topic + 1 - self._sent.shape[1]
        if more > 0:
            more += topic // 2
            self._sent, self._rest, self._interval = (
                np.pad(array, ((0, 0), (0, more)), constant_values=unused)
                for array, unused in ((self._sent, EVER), (self._rest, 0), (self._interval, 0))
            )
        self._rest[:, topic] = 0
        self._interval[:, topic] = cadence
        self._sent[:, topic] = since - cadence

    def close(self, topic: int) -> None:
        self._sent[:, topic] = EVER

    def suspend(self, window: int, topic: int) -> None:
        """Let no update of a window be sent, until ``resume``."""
        self._sent[window, topic] = EVER

    def resume(self, window: int, topic: int) -> None:
        """Let an update of a window be sent at once."""
        self._sent[window, topic] = _NEVER

    def set_back(self, now: int) -> None:
        """Count the intervals from ``now`` on, a time before the last updates: the clock of Redis went back."""
        self._sent[(self._sent > now) & (self._sent < EVER)] = now

    def suspended(self, window: int, topics: Index) -> Flags:
        """Return for each topic [n] whether a window is suspended."""
        return np.asarray(self._sent[window, topics] >= EVER)

    def reports(self, window: int) -> bool:
        """Return whether any topic's window is not suspended."""
        return bool((self._sent[window] < EVER).any())

    def set(self, window: int, topic: int, cadence: int) -> bool:
        """Set the interval of a window; return whether it changed."""
        changed = bool(self._interval[window, topic] != cadence)
        self._interval[window, topic] = cadence
        return changed

    def intervals(self, window: int, topics: Index) -> Ints:
        """Return the least ms between two updates."""
        return np.asarray(np.maximum(self._interval[window, topics], self._rest[window, topics]))

    def ready_at(self, window: int, topics: Index) -> Ints:
        """Return the times from which updates may be sent."""
        return np.asarray(self._sent[window, topics] + self.intervals(window, topics))

    def spend(self, window: int, topics: Index, now: int, sizes: Ints) -> None:
        """Note that updates of ``sizes`` bytes were sent."""
        self._sent[window, topics] = now
        self._rest[window, topics] = (sizes * 1_000 / self._share).astype(np.int64)
