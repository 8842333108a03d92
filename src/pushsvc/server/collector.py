"""Keeps the collections of Python's garbage collector short.

It looks at all objects that a process has, when there are a quarter more than the last time: at 550,000 of them for
0.1 s, in one step. Nearly all of them are no garbage: rows of windows, logs, streams.
"""

from __future__ import annotations

import gc

_NEW = 3_000  # objects beyond those that were freed, after which the collector looks at them for cycles
_YOUNG, _MIDDLE = 2, 1  # more such looks than _YOUNG, and it looks at these objects again; more of those, and at all
_OLD = 10_000  # objects that survived a look at all, from which on they are left out of the next ones
_GONE = 1_000  # streams and logs that must have gone until those left out are looked at again
_FEW = 150_000  # objects that were left out, up to which they are looked at soon: it takes 30 ms
_LATEST = 12  # calls of look after which more than these are looked at


class Collector:
    """Leaves objects out of further collections once they have survived one, if there are many.

    Most objects are freed without the collector. Those left out that become garbage, as the groups of closed streams
    do, are found again by ``look``.
    """

    def __init__(self) -> None:
        self._froze = False
        self._followed = self._unfollowed = 0
        self._due = 0
        self._gone = 0  # streams and logs that had gone when objects were looked at the last time

    def start(self) -> None:
        """Leave out what the program has loaded, and keep collections short from now on."""
        gc.freeze()
        gc.collect()  # of nothing: else it would wait for a quarter more than all objects of the program
        gc.set_threshold(_NEW, _YOUNG, _MIDDLE)
        gc.callbacks.append(self._on_collection)

    def _on_collection(self, phase: str, info: dict[str, int]) -> None:
        if info["generation"] == 2 and phase == "stop" and len(gc.get_objects(2)) > _OLD:
            gc.freeze()
            self._froze = True

    def look(self, *, streams: int, ended: int, followed: int) -> None:
        """Look at all objects again if as many streams and logs have gone as there are. Call it every few seconds.

        It is done when few objects are left, as after an attack, or at the latest after a minute.
        ``ended`` streams have ended since the start, ``followed`` is the number of logs that are followed now.
        """
        self._unfollowed += max(0, self._followed - followed)
        self._followed = followed
        gone, live = ended + self._unfollowed, streams + followed
        if not self._froze:
            self._gone = gone
        elif gone - self._gone > max(_GONE, live):
            self._due += 1
            if gc.get_freeze_count() <= _FEW:
                self._take_back(gone)
                gc.collect()
                gc.collect()  # of nothing, as at the start
            elif self._due > _LATEST:
                self._take_back(gone)

    def _take_back(self, gone: int) -> None:
        self._froze, self._due, self._gone = False, 0, gone
        gc.unfreeze()
