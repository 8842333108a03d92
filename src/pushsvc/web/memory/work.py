"""Admits work that takes memory, as much at a time as there is room for."""

from __future__ import annotations

from collections.abc import Callable


class Work:
    """A piece of work that takes ``size`` bytes. ``admitted`` is true once it may begin."""

    __slots__ = ("admitted", "on_admitted", "size")

    def __init__(self, size: int, on_admitted: Callable[[], None]) -> None:
        self.size = size
        self.on_admitted = on_admitted
        self.admitted = False


class WorkQueue:
    """Work that has begun, and work that waits in the order of its arrival.

    Work begins when it fits into ``room`` bytes; the only work may be larger. Smaller work may overtake larger work:
    work that has begun ends by itself, and soon, so the larger work gets its turn.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self.used = 0
        self._waiting: dict[Work, None] = {}

    @property
    def waiting(self) -> int:
        """The number of pieces of work that wait."""
        return len(self._waiting)

    def join(self, size: int, on_admitted: Callable[[], None]) -> Work:
        """Return work that is admitted if there is room; else it waits, and ``on_admitted`` is called later."""
        work = Work(size, on_admitted)
        if self._fits(work):
            self._admit(work)
        else:
            self._waiting[work] = None
        return work

    def leave(self, work: Work) -> None:
        """End work, or stop waiting."""
        if not work.admitted:
            self._waiting.pop(work, None)
            return
        work.admitted = False
        self.used -= work.size
        for waiting in [one for one in self._waiting if self._fits(one)]:
            if self._fits(waiting):
                del self._waiting[waiting]
                self._admit(waiting)
                waiting.on_admitted()

    def _fits(self, work: Work) -> bool:
        return not self.used or self.used + work.size <= self.room

    def _admit(self, work: Work) -> None:
        work.admitted = True
        self.used += work.size
