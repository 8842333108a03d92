"""A flag to wait for, of which a process may have one per topic."""

from gevent.event import Event


class Latch:
    """An Event that exists only while something waits for it: most are set, and are never waited for again."""

    __slots__ = ("_event", "_is_set")

    def __init__(self) -> None:
        self._is_set = False
        self._event: Event | None = None

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        event, self._event = self._event, None
        if event is not None:
            event.set()

    def clear(self) -> None:
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the flag is set; return whether it was."""
        if self._is_set:
            return True
        if self._event is None:
            self._event = Event()
        return bool(self._event.wait(timeout))
