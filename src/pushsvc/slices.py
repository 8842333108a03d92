"""Work that is cut into slices: the event loop gets a turn between two of them."""

from time import monotonic

from gevent import get_hub


class Slices:
    """Call it after each step of some work: it lets the event loop have a turn if they took ``length`` seconds."""

    __slots__ = ("_end", "_length")

    def __init__(self, length: float) -> None:
        self._length = length
        self._end = monotonic() + length

    def __call__(self) -> None:
        if monotonic() < self._end:
            return
        get_hub().wait(get_hub().loop.timer(0))  # gevent.sleep(0) would return before any socket is polled
        self._end = monotonic() + self._length
