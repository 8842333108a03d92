"""The signals of the parent process. A handler only takes a note and ends the sleep of the main loop."""

import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_BOUNCE = 1.0  # seconds within which further stop signals are one request: some terminals send Ctrl-C twice at once


class Signals:
    """Catches stop signals and SIGCHLD in the main thread while ``caught`` is active."""

    def __init__(self) -> None:
        self._alarm, self._alarm_writer = socket.socketpair()
        self._stops: list[float] = []
        self._interruptible = False

    @property
    def stopping(self) -> bool:
        """Whether a stop was requested."""
        return bool(self._stops)

    @property
    def hurried(self) -> bool:
        """Whether a second request demands that the processes end at once."""
        return bool(self._stops) and self._stops[-1] - self._stops[0] > _BOUNCE

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Handle SIGINT, SIGTERM, SIGHUP (unless ignored, as under nohup) and SIGCHLD."""
        for end in (self._alarm, self._alarm_writer):
            end.setblocking(False)
        handlers = {signal.SIGINT: self._on_stop, signal.SIGTERM: self._on_stop, signal.SIGCHLD: self._on_child}
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            handlers[signal.SIGHUP] = self._on_stop
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        previous = signal.set_wakeup_fd(self._alarm_writer.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(previous)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._alarm.close()
            self._alarm_writer.close()

    def call_unless_stopping(self, action: Callable[[], None]) -> None:
        """Call ``action`` and return; a stop signal ends the call where it is, or prevents it."""
        with suppress(KeyboardInterrupt):
            try:
                self._interruptible = True
                if not self._stops:
                    action()
            finally:
                self._interruptible = False

    def sleep(self, seconds: float | None) -> None:
        """Return at the next signal or ``wake``, or after ``seconds``."""
        select.select([self._alarm], [], [], seconds)
        with suppress(BlockingIOError):
            self._alarm.recv(4096)

    def wake(self) -> None:
        """End the sleep; any thread may call it."""
        with suppress(OSError):
            self._alarm_writer.send(b"\0")

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        self._stops.append(time.monotonic())
        if self._interruptible:
            self._interruptible = False
            raise KeyboardInterrupt

    def _on_child(self, number: int, frame: FrameType | None) -> None:
        """Do nothing: a handled signal ends the sleep."""
