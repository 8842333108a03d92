"""Which topics of a partition the sweeper has to check, and when."""

from __future__ import annotations

import math
from collections.abc import Iterable

STEP = 15.0  # seconds; times are rounded up to it
_COUNTED_FILL = 0.01  # logs that are less full are not compared
_FIRST_PAUSE, _LONGEST_PAUSE = 30.0, 900.0  # seconds until a topic whose check failed is checked again


class SweepSchedule:
    """The topics of a partition that is owned with a fencing token, and the bytes of their logs.

    A topic that does not change is checked again only when its oldest entry may reach its age limit. After each failed
    check in a row, a topic rests twice as long, even if it changes. Times are monotonic, in seconds.
    """

    def __init__(self, fence: int) -> None:
        self.fence = fence
        self.epoch: int | None = None  # of Redis; None: the topics are not known yet
        self.through = 0  # the sequence up to which changes are known
        self.bytes = 0  # of all logs
        self._sizes: dict[str, int] = {}
        self._fills: dict[str, float] = {}
        self._steps: dict[str, int] = {}
        self._topics: dict[int, set[str]] = {}  # by step
        self._pauses: dict[str, float] = {}  # the last pause of each topic whose last check failed
        self._retry_at: dict[str, float] = {}

    @property
    def fullest(self) -> float:
        """The fill ratio of the fullest log; 0 if none is filled by 1 %."""
        return max(self._fills.values(), default=0.0)

    def add(self, names: Iterable[str], at: float) -> None:
        """Let topics be due at a time, unless they are due earlier. Topics that failed are not due before they are
        tried again."""
        for name in names:
            step = math.ceil(max(at, self._retry_at.get(name, at)) / STEP)
            before = self._steps.get(name)
            if before is None or step < before:
                if before is not None:
                    self._leave(name, before)
                self._steps[name] = step
                self._topics.setdefault(step, set()).add(name)

    def _leave(self, name: str, step: int) -> None:
        topics = self._topics[step]
        topics.discard(name)
        if not topics:
            del self._topics[step]

    def take(self, now: float) -> list[str]:
        """Remove and return the topics that are due."""
        due = [step for step in self._topics if step <= now / STEP]
        names = sorted(set().union(*(self._topics.pop(step) for step in due)))
        for name in names:
            del self._steps[name]
        return names

    def note_failure(self, name: str, now: float) -> bool:
        """Let a topic whose check failed be due after a pause. Return whether the check before succeeded."""
        before = self._pauses.get(name)
        pause = self._pauses[name] = _FIRST_PAUSE if before is None else min(2 * before, _LONGEST_PAUSE)
        self._retry_at[name] = now + pause
        if (step := self._steps.pop(name, None)) is not None:
            self._leave(name, step)
        self.add([name], now)
        return before is None

    def note_success(self, names: Iterable[str]) -> None:
        """End the pauses of topics."""
        for name in names:
            self._pauses.pop(name, None)
            self._retry_at.pop(name, None)

    def set_size(self, name: str, size: int, full: int) -> None:
        """Note the bytes of a topic's log, which is full at ``full`` bytes (0: never)."""
        self.bytes += size - self._sizes.get(name, 0)
        self._sizes[name] = size
        if full and size >= _COUNTED_FILL * full:
            self._fills[name] = size / full
        else:
            self._fills.pop(name, None)

    def forget(self, name: str) -> None:
        """Note that a topic has ended."""
        self.bytes -= self._sizes.pop(name, 0)
        self._fills.pop(name, None)
