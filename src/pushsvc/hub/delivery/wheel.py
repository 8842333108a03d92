"""A timing wheel that finds silent connections: one wheel for all of them instead of a timer for each."""

from typing import Generic, Protocol, TypeVar


class Clock:
    """``tick`` is the number of seconds since the hub started. The wheel advances it."""

    __slots__ = ("tick",)

    def __init__(self) -> None:
        self.tick = 0


class Timed(Protocol):
    """``last_sent`` is the tick at which the item was last sent something."""

    @property
    def last_sent(self) -> int: ...

    @property
    def closed(self) -> bool: ...


T = TypeVar("T", bound=Timed)


class Wheel(Generic[T]):
    """Returns each item ``silence`` ticks after it was last sent something.

    Sending does not touch the wheel: an item that was sent something since is put back when its turn comes.
    """

    def __init__(self, clock: Clock, silence: int) -> None:
        self._clock = clock
        self._silence = silence
        self._slots: list[list[T]] = [[] for _ in range(silence + 1)]

    def add(self, item: T) -> None:
        due = max(item.last_sent + self._silence, self._clock.tick + 1)
        self._slots[due % len(self._slots)].append(item)

    def turn(self) -> list[T]:
        """Advance the clock by a tick and return the silent items. The caller adds them again."""
        self._clock.tick += 1
        tick = self._clock.tick
        slot = tick % len(self._slots)
        items, self._slots[slot] = self._slots[slot], []
        due = []
        for item in items:
            if item.closed:
                continue
            if tick - item.last_sent >= self._silence:
                due.append(item)
            else:
                self.add(item)
        return due
