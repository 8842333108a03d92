"""Measures the turns of the event loops of a server, in its own processes.

Python loads this module at the start of each process that has the folder in PYTHONPATH. HOSTILE_TURNS names the folder
for the long turns: a line of JSON for each, in a file for each process. With HOSTILE_STACKS it has stacks, too.
"""

import gc
import json
import os
import signal
import sys
from time import monotonic, thread_time

LONG = 0.01  # seconds of a turn from which on it is noted
EVERY = 0.002  # seconds of work between two looks at the stack
DEPTH = 12

_ROLES = ("_web", "_aggregator")


class Turns:
    """A turn is what a loop does between two waits for events."""

    def __init__(self, path: str, *, stacks: bool) -> None:
        self._file = open(path, "a", buffering=1)  # noqa: SIM115
        self._began = self._used = self._collecting = self._collected = 0.0
        self._stacks: list[list[str]] = []
        gc.callbacks.append(self._on_collection)
        if stacks:
            signal.signal(signal.SIGVTALRM, self._on_signal)
            signal.setitimer(signal.ITIMER_VIRTUAL, EVERY, EVERY)

    def follow(self, loop) -> None:  # type: ignore[no-untyped-def]
        self._first, self._last = loop.check(ref=False, priority=2), loop.prepare(ref=False, priority=-2)
        self._first.start(self._begin)
        self._last.start(self._end)

    def _begin(self) -> None:
        self._collected = 0.0
        self._stacks.clear()
        self._used, self._began = thread_time(), monotonic()

    def _end(self) -> None:
        began, self._began = self._began, 0.0
        took = monotonic() - began
        if began and took >= LONG:
            turn = {"at": began, "took": took, "used": thread_time() - self._used, "collected": self._collected}
            self._file.write(json.dumps(turn | {"stacks": self._stacks}) + "\n")

    def _on_collection(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._collecting = thread_time()
        else:
            self._collected += thread_time() - self._collecting

    def _on_signal(self, number: int, frame) -> None:  # type: ignore[no-untyped-def]
        stack: list[str] = []
        while frame is not None and len(stack) < DEPTH:
            code = frame.f_code
            stack.append(f"{os.path.basename(code.co_filename)}:{frame.f_lineno} {code.co_name}")
            frame = frame.f_back
        self._stacks.append(stack)


def _install(folder: str, role: str) -> None:
    from gevent.hub import Hub

    create = Hub.__init__

    def __init__(self, *args, **options) -> None:  # type: ignore[no-untyped-def]
        create(self, *args, **options)
        Hub.__init__ = create  # the first one is that of the main thread
        turns = Turns(os.path.join(folder, f"{role}-{os.getpid()}"), stacks="HOSTILE_STACKS" in os.environ)
        turns.follow(self.loop)

    Hub.__init__ = __init__


for _role in _ROLES:
    if "HOSTILE_TURNS" in os.environ and _role in sys.orig_argv:
        _install(os.environ["HOSTILE_TURNS"], _role)
