"""Keeps the collections of Python's garbage collector short.

It looks at all objects that a process has, when there are a quarter more than the last time: at 550,000 of them for
0.1 s, in one step. Nearly all of them are no garbage: rows of windows, logs, streams.
"""

from __future__ import annotations

import gc

_NEW = 3_000  # objects beyond those that were freed, after which the collector looks at them for cycles
_YOUNG, _MIDDLE = 2, 1  # more such looks than _YOUNG, and it looks at these objects again; more of those, and at all
_OLD = 10_000  # objects that survived a look at all, from which on they are left out of the next ones


class Collector:
    """Leaves objects out of further collections once they have survived one, if there are many.

    Nearly all objects are freed without the collector. ``take_back`` finds those left out that became garbage.
    """

    def __init__(self) -> None:
        self._froze = False

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

    def take_back(self) -> None:
        """Look at all objects. It takes about 1 ms for 1,000 of them, and the program alone has 90,000."""
        if self._froze:
            self._froze = False
            gc.unfreeze()
            gc.collect()
            gc.collect()  # of nothing, as at the start
