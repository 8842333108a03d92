"""The heartbeat of a child process: a counter in shared memory that its event loop advances.

A loop that stands still, in Python or in C, stops the counter. On SIGUSR1 the child writes the stacks of its threads to
its log, whatever it does at that moment.

A second number tells the parent that the child has begun its work.
"""

import faulthandler
import mmap
import os
import signal
import tempfile
from collections.abc import Callable
from typing import BinaryIO

INTERVAL = 1.0  # seconds between two beats of a loop
HEARTBEAT_VARIABLE = "PUSHSVC_HEARTBEAT_COUNTER"  # the descriptor of the counters and the number of the child's: "9 2"
DUMP = signal.SIGUSR1


class Heartbeats:
    """The counters of all children. The parent creates them; children inherit ``descriptor``."""

    def __init__(self, children: int) -> None:
        self._file: BinaryIO = tempfile.TemporaryFile(prefix="pushsvc-heartbeats-")  # noqa: SIM115
        self._file.truncate(mmap.PAGESIZE * (1 + children // (mmap.PAGESIZE // 16)))
        self._memory = mmap.mmap(self._file.fileno(), 0)
        self._counters = memoryview(self._memory).cast("Q")

    @property
    def descriptor(self) -> int:
        return self._file.fileno()

    def clear(self, number: int) -> None:
        """Forget the beats of a child that has ended."""
        self._counters[2 * number] = self._counters[2 * number + 1] = 0

    def count(self, number: int) -> int:
        """Return the beats of a child; 0 before its loop runs."""
        return self._counters[2 * number]

    def has_begun(self, number: int) -> bool:
        """Return whether a child has begun its work."""
        return bool(self._counters[2 * number + 1])

    def close(self) -> None:
        self._counters.release()
        self._memory.close()
        self._file.close()


def start_heartbeat() -> Callable[[], None]:
    """Let the loop of this process advance the counter that the environment names, if any. Return what tells the parent
    that this process has begun its work."""
    text = os.environ.pop(HEARTBEAT_VARIABLE, "")
    if not text:
        return lambda: None
    import gevent  # the supervisor reads this module, too, and uses no gevent

    descriptor, number = map(int, text.split())
    os.set_inheritable(descriptor, False)
    counters = memoryview(mmap.mmap(descriptor, 0)).cast("Q")
    faulthandler.register(DUMP, all_threads=True)
    gevent.spawn(_beat, counters, number)

    def begin() -> None:
        counters[2 * number + 1] = 1

    return begin


def _beat(counters: memoryview, number: int) -> None:
    from gevent import sleep

    while True:
        counters[2 * number] += 1
        sleep(INTERVAL)
