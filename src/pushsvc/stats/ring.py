"""Where the panes of a window lie: a circle of places, and a head that only goes forward."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pushsvc.stats.window import Window

ROOM = 10_000
"""Milliseconds ahead of the head for which there are places: the 5 s that producers may be ahead, and as much again
for clocks that differ between machines."""


class Ring:
    """The places ``base`` … ``base + size`` hold the panes of one window and those that are still to enter.

    Panes are numbered from 1970: pane p is [p * window.pane, (p + 1) * window.pane) ms.
    """

    def __init__(self, window: Window, base: int, time: int) -> None:
        self.window = window
        self.base = base
        self.future = -(-ROOM // window.pane) + 1
        self.size = window.panes + self.future
        self.head = time // window.pane

    @property
    def oldest(self) -> int:
        return self.head - self.window.panes + 1

    @property
    def start(self) -> int:
        """First ms of the window."""
        return self.end - self.window.length

    @property
    def end(self) -> int:
        """First ms behind the head pane."""
        return (self.head + 1) * self.window.pane

    def places(self, first: int, last: int) -> NDArray[np.int64]:
        """Return the places of the panes ``first`` … ``last``, both included; at most ``size`` panes."""
        return self.base + np.arange(first, last + 1) % self.size

    def pane_at(self, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the numbers of the panes that lie ``offsets`` behind ``base``."""
        return self.oldest + (offsets - self.oldest) % self.size
