"""Windows: a length that divides into panes, a number of events, or the lifetime of a topic."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

from pushsvc.stats.arrays import Ints

Time = TypeVar("Time", int, Ints)

_UNITS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_SPELLING = re.compile(r"([1-9][0-9]{0,5})([smhd])\Z")
_SHORTEST, _LONGEST = 10_000, 86_400_000
_SHORTEST_PANE = 250
_LAST = re.compile(r"last *([0-9]{1,9})\Z")
_FEWEST, _MOST = 2, 100_000


@dataclass(frozen=True, slots=True)
class Window:
    """A rolling window of ``length`` ms in ``panes`` panes of ``pane`` ms; ``name`` is its spelling. A count window
    consists of the last ``events`` events of a topic, and the window ``all`` of every event since the topic began;
    these have neither length nor panes."""

    name: str
    length: int
    pane: int
    events: int = 0

    @property
    def panes(self) -> int:
        return self.length // self.pane

    @property
    def is_lifetime(self) -> bool:
        """Whether no event ever leaves the window."""
        return not (self.length or self.events)

    def start(self, clock: Time) -> Time:
        """Return the first ms in the window when its clock is at ``clock``: earlier events are late."""
        return (clock // self.pane - self.panes + 1) * self.pane

    def exact(self) -> Window:
        """Return the same window with panes of one ms: (T - length, T] for a clock at T."""
        return replace(self, pane=1) if self.length else self

    @classmethod
    def parse(cls, text: str) -> Window:
        """Read ``10s`` … ``24h``, ``last 2`` … ``last 100000`` or ``all``; raise ValueError. A pane is 1/60 of the
        window, but at least 250 ms."""
        if text == LIFETIME.name:
            return LIFETIME
        if last := _LAST.match(text):
            events = int(last[1])
            if not _FEWEST <= events <= _MOST:
                raise ValueError(f"window {text!r} is not between last {_FEWEST} and last {_MOST}")
            return cls(f"last {events}", 0, 0, events)
        found = _SPELLING.match(text)
        if not found:
            raise ValueError(
                f"{text!r} is not a window: write a number and s, m, h or d, such as 90s, or last 1000, or all"
            )
        length = int(found[1]) * _UNITS[found[2]]
        if not _SHORTEST <= length <= _LONGEST:
            raise ValueError(f"window {text!r} is not between 10s and 24h")
        pane = max(length // 60, _SHORTEST_PANE)
        if length % pane:
            raise ValueError(f"window {text!r} does not divide into whole panes of {pane} ms")
        return cls(text, length, pane)


LIFETIME = Window("all", 0, 0)


class TimeRange(NamedTuple):
    """The event times that a window covers, in ms: [``start``, ``end``); None if it has no events. ``truncated`` tells
    that for lack of room the window lacks events before ``start``."""

    start: int | None
    end: int | None
    truncated: bool = False
