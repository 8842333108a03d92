"""Admits work that takes memory, as much at a time as there is room for."""

from __future__ import annotations

from collections.abc import Callable


class Work:
    """A piece of work that takes ``size`` bytes. ``admitted`` is true while it may run.

    Set ``on_admitted`` on work that waits; it is called once the work is admitted.
    """

    __slots__ = ("admitted", "on_admitted", "overtaken", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.on_admitted: Callable[[], object] | None = None
        self.admitted = False
        self.overtaken = 0


class WorkQueue:
    """Work that runs, and work that waits in the order of its arrival.

    Work is admitted if it fits into ``room`` bytes; the only work may be larger. At most ``overtakers`` pieces of later
    work that fits are admitted before the first that waits. Work must end by itself, so everything gets its turn.
    """

    def __init__(self, room: int, overtakers: int = 16) -> None:
        self.room = room
        self.used = 0
        self._overtakers = overtakers
        self._waiting: dict[Work, None] = {}

    @property
    def waiting(self) -> int:
        """The number of pieces of work that wait."""
        return len(self._waiting)

    def join(self, size: int) -> Work:
        """Return work that is admitted, or waits."""
        work = Work(size)
        self._waiting[work] = None
        self._admit()
        return work

    def leave(self, work: Work) -> None:
        """End work, or stop waiting."""
        if work.admitted:
            work.admitted = False
            self.used -= work.size
        else:
            self._waiting.pop(work, None)
        self._admit()

    def _admit(self) -> None:
        """Admit the work that waits, as far as there is room."""
        for work in list(self._waiting) if self.used < self.room else ():
            if self.used and self.used + work.size > self.room:
                continue
            first = next(iter(self._waiting))
            if work is not first:
                if first.overtaken >= self._overtakers:
                    return
                first.overtaken += 1
            del self._waiting[work]
            work.admitted = True
            self.used += work.size
            if work.on_admitted is not None:
                work.on_admitted()
