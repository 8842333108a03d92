"""When silence is to be broken: one wheel for all streams, not a timer for each."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar


class Rider(Protocol):
    """``took`` is the tick at which it last took something."""

    @property
    def took(self) -> int: ...

    @property
    def closed(self) -> bool: ...


R = TypeVar("R", bound=Rider)


class Wheel(Generic[R]):
    """Turns once a tick. Sending says nothing to it: a rider whose turn comes too early rides on."""

    def __init__(self, silence: int) -> None:
        """``silence`` is the number of ticks after which a rider is due."""
        self.silence = silence
        self.tick = 0
        self._slots: list[list[R]] = [[] for _ in range(silence + 1)]

    def add(self, rider: R) -> None:
        due = max(rider.took + self.silence, self.tick + 1)
        self._slots[due % len(self._slots)].append(rider)

    def turn(self) -> list[R]:
        """Go on by a tick; return who was silent for long enough. They are to be added again."""
        self.tick += 1
        at = self.tick % len(self._slots)
        riders, self._slots[at] = self._slots[at], []
        due = []
        for rider in riders:
            if rider.closed:
                continue
            if self.tick - rider.took >= self.silence:
                due.append(rider)
            else:
                self.add(rider)
        return due
