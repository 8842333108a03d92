"""A window: how long it is and how it divides into panes."""

from __future__ import annotations

import re
from dataclasses import dataclass

_UNITS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_SPELLING = re.compile(r"([1-9][0-9]{0,5})([smhd])\Z")
_SHORTEST, _LONGEST = 10_000, 86_400_000
_SHORTEST_PANE = 250


@dataclass(frozen=True, slots=True)
class Window:
    """A rolling window of ``length`` ms made of ``panes`` panes of ``pane`` ms each; ``name`` is how it was written."""

    name: str
    length: int
    pane: int

    @property
    def panes(self) -> int:
        return self.length // self.pane

    @classmethod
    def parse(cls, text: str) -> Window:
        """Read ``10s`` … ``24h``; raise ValueError. A pane is 1/60 of the window, but at least 250 ms."""
        found = _SPELLING.match(text)
        if not found:
            raise ValueError(f"{text!r} is not a window: write a number and s, m, h or d, such as 90s or 15m")
        length = int(found[1]) * _UNITS[found[2]]
        if not _SHORTEST <= length <= _LONGEST:
            raise ValueError(f"window {text!r} is not between 10s and 24h")
        pane = max(length // 60, _SHORTEST_PANE)
        if length % pane:
            raise ValueError(f"window {text!r} does not divide into whole panes of {pane} ms")
        return cls(text, length, pane)
