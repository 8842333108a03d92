"""The process of the handlers, started again whenever it ends. Partitions take turns with it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import gevent
from gevent.lock import RLock

from pushsvc.components import metrics
from pushsvc.components.child import HandlerProcess, HandlersLost
from pushsvc.components.messages import Done, Run
from pushsvc.errors import StartupError

log = logging.getLogger(__name__)

_SHORTEST, _LONGEST = 0.05, 5.0  # seconds before a restart
_MARGIN = 5.0  # seconds that a turn may take besides one handler


class Handlers:
    """The handlers of ``app``. The constructor raises StartupError and HandlersLost."""

    def __init__(self, app: str) -> None:
        self._app = app
        self._lock = RLock()
        self._process: HandlerProcess | None = HandlerProcess(app)
        self.hello = self._process.hello
        self._pause = _SHORTEST

    def run(
        self, run: Run, states: Callable[[str, list[str]], Sequence[bytes | None]], timeout: float,
        is_over: Callable[[], bool] = lambda: False,
    ) -> Done | None:  # fmt: skip
        """Let handlers handle something; return None if it ``is_over`` before its turn comes. Raise HandlersLost if it
        had no effect, and what ``states`` raises."""
        with self._lock:
            if is_over():
                return None
            process = self._running()
            try:
                done = process.run(run, states, timeout + _MARGIN)
            except BaseException as error:
                self._lose(error)
                raise
            self._pause = _SHORTEST
            return done

    def forget(self, group: str, partition: int, topic: str | None = None) -> None:
        """Let the process forget states; a process that is lost has none."""
        with self._lock:
            if self._process is not None:
                try:
                    self._process.forget(group, partition, topic)
                except HandlersLost as error:
                    self._lose(error)

    def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.end()

    def _running(self) -> HandlerProcess:
        if self._process is not None and not self._process.running:
            self._lose(HandlersLost("the process of the handlers has ended"))
        while self._process is None:
            gevent.sleep(self._pause)
            self._pause = min(2 * self._pause, _LONGEST)
            try:
                self._process = HandlerProcess(self._app)
            except (HandlersLost, StartupError) as error:
                log.error("the handlers cannot be started: %s", error)
        return self._process

    def _lose(self, error: BaseException) -> None:
        process, self._process = self._process, None
        if process is not None:
            metrics.LOST.inc()
            log.warning("the process of the handlers is replaced: %s", error)
            process.kill()
