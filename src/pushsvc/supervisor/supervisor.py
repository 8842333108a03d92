"""The parent of all processes: opens the port, starts the embedded server and the children, ends them in order.

It imports no gevent of its own and patches nothing, so that signals, processes and sockets are the system's.
"""

from __future__ import annotations

import logging
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType

from prometheus_client import multiprocess

from pushsvc.broker.embedded import EmbeddedServer
from pushsvc.config import Settings
from pushsvc.errors import StartupError
from pushsvc.metrics.exposition import DIRECTORY_VARIABLE, SLOT_VARIABLE
from pushsvc.server.caps import Table
from pushsvc.settings import Ack
from pushsvc.supervisor.folders import private_folder
from pushsvc.supervisor.lifeline import VARIABLE
from pushsvc.supervisor.listener import address_of, listen, wait_ready
from pushsvc.supervisor.preflight import check_certificate, check_redis

log = logging.getLogger(__name__)

SETTINGS_VARIABLE = "PUSHSVC_SETTINGS"
"""Children find the parent's settings here, so that a changed file cannot make two of them differ."""

REDIS_VARIABLE = "PUSHSVC_REDIS"
"""And here the Redis to use, which no setting names when it is the embedded server."""

ORDER = ("_demo", "_web", "_aggregator")
"""Roles in the order in which they end: first who produces, last who counts. The embedded server comes after them."""

REFUSED = 1
"""Exit code of a child that said why it cannot work."""

_SHORTEST, _LONGEST, _HEALTHY = 0.1, 10.0, 10.0
_LAST_MOMENT = 2.0
"""Seconds that a role has at least, however long those before it took."""


class Restarts:
    """How long to wait before the next start: longer from one early death to the next."""

    def __init__(self) -> None:
        self._pause = _SHORTEST / 2

    def after(self, lived: float) -> float:
        """Return the pause in seconds after a life of ``lived`` seconds."""
        self._pause = _SHORTEST if lived > _HEALTHY else min(self._pause * 2, _LONGEST)
        return self._pause


class Child:
    """One process of ours, started again whenever it ends before it should."""

    def __init__(self, role: str, number: int, arguments: Sequence[str] = (), descriptors: Sequence[int] = ()) -> None:
        self.role, self.number = role, number
        self.name = f"{role.lstrip('_')} {number}"
        self.slot = self.name.replace(" ", "-")
        self.due: float | None = 0.0
        self.process: subprocess.Popen[bytes] | None = None
        self._arguments = list(arguments)
        self._descriptors = tuple(descriptors)
        self._restarts = Restarts()
        self._started = 0.0

    def start(self, environment: dict[str, str], lifeline: int) -> None:
        self._started, self.due = time.monotonic(), None
        # -P: a file of the user's folder must not stand in for a module of ours.
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "pushsvc", self.role, *self._arguments],
            env=environment | {SLOT_VARIABLE: self.slot},
            stdin=subprocess.DEVNULL,
            pass_fds=(*self._descriptors, lifeline),
            start_new_session=True,  # Ctrl-C in the terminal reaches only the parent, which keeps the order
        )

    def ended(self) -> int | None:
        """Return the exit code once it ended, and plan the next start."""
        code = self.process.poll() if self.process else None
        if self.process is None or code is None:
            return None
        now = time.monotonic()
        if self.role != "_demo" or code != REFUSED:
            self.due = now + self._restarts.after(now - self._started)
        return code

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


class KeptServer:
    """The embedded server, started again whenever it ends before it should."""

    def __init__(self, server: EmbeddedServer, say: Callable[[str], None]) -> None:
        self._server = server
        self._say = say
        self._restarts = Restarts()
        self._due = self._started = 0.0

    @property
    def due(self) -> float | None:
        """When it is to be started again; None while it runs."""
        return None if self._server.alive() else self._due

    def start(self) -> str:
        """Return the URL, which stays the same over restarts."""
        self._started = time.monotonic()
        self._server.start()
        self._say(f"data is kept in {self._server.data_dir}")
        return self._server.url

    def look_after(self) -> None:
        due = self.due
        if due is None or time.monotonic() < due:
            return
        words = self._server.last_words()
        log.error("the embedded server ended; it is started again. Its last words:\n%s", words)
        try:
            self.start()
        except StartupError as error:
            log.error("%s", error)
        now = time.monotonic()
        self._due = now + self._restarts.after(now - self._started)

    def stop(self, timeout: float) -> None:
        ran = self._server.alive()
        self._server.stop(timeout)
        if ran:
            log.info("the embedded server has ended")


class Supervisor:
    """Runs ``web`` and ``aggregators`` children until SIGTERM or Ctrl-C; ``producer`` holds the arguments of a demo's.

    ``say`` takes what the operator shall read. Without ``settings.redis`` a server of our own is started in
    ``settings.data_dir``. Use it from the main thread: it takes the process's signals while ``run`` runs.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        web: int = 0,
        aggregators: int = 0,
        producer: Sequence[str] | None = None,
        say: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._web, self._aggregators, self._producer = web, aggregators, producer
        self._say = say
        self._listener: socket.socket | None = None
        self._embedded: KeptServer | None = None
        self._caps: Table | None = None
        self._children: list[Child] = []
        self._environment: dict[str, str] = {}
        self._resources = ExitStack()
        self._metrics = Path()
        self._lifeline, self._lifeline_writer = os.pipe()
        self._alarm, self._alarm_writer = socket.socketpair()
        self._starting = False
        self._stop_asked: list[float] = []
        self._over = threading.Event()

    def run(self) -> None:
        """Return after an orderly end. Raise StartupError when something needed is missing."""
        with self._signals():
            try:
                self._start_unless_stopped()
                while not self._stop_asked:
                    self._look_after_children()
                    if self._embedded is not None:
                        self._embedded.look_after()
                    self._sleep(self._next_look())
            finally:
                self._end()

    # Signals: a handler only takes a note, and the alarm ends the sleep. But a start is not waited for.

    @contextmanager
    def _signals(self) -> Iterator[None]:
        for end in (self._alarm, self._alarm_writer):
            end.setblocking(False)
        handlers = {signal.SIGINT: self._on_stop, signal.SIGTERM: self._on_stop, signal.SIGCHLD: self._on_child}
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup
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

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        self._stop_asked.append(time.monotonic())
        if self._starting:
            self._starting = False
            raise KeyboardInterrupt

    def _on_child(self, number: int, frame: FrameType | None) -> None:
        """Nothing: that it is handled is what ends the sleep."""

    def _sleep(self, seconds: float | None) -> None:
        select.select([self._alarm], [], [], seconds)
        with suppress(BlockingIOError):
            self._alarm.recv(4096)

    # Beginning

    def _start_unless_stopped(self) -> None:
        """Start everything; return at once, with what is there so far, when a stop is asked for meanwhile."""
        with suppress(KeyboardInterrupt):
            try:
                self._starting = True
                if not self._stop_asked:
                    self._start()
            finally:
                self._starting = False

    def _start(self) -> None:
        raise_file_limit()
        settings = self._settings
        if self._web:
            check_certificate(settings.certfile, settings.keyfile)
            self._listener = listen(settings.host, settings.port)
        elif settings.metrics_port is not None:
            self._listener = listen(settings.metrics_host, settings.metrics_port, option="--metrics-port")
        redis = self._start_embedded() if settings.redis is None else settings.redis
        ack = settings.ack if self._web else Ack()
        check_redis(redis, settings.prefix, wait=settings.wait, warn=log.warning, ack=ack)
        self._environment = self._child_environment(redis)
        self._children = [self._aggregator(n + 1) for n in range(self._aggregators)]
        if self._web and self._listener is not None:
            self._start_web(self._listener)
        else:
            self._say(f"the aggregator works{self._shown}")

    def _start_embedded(self) -> str:
        self._embedded = KeptServer(EmbeddedServer(self._settings.data_dir), self._say)
        return self._embedded.start()

    def _child_environment(self, redis: str) -> dict[str, str]:
        self._metrics = self._resources.enter_context(private_folder("metrics"))
        return os.environ | {
            SETTINGS_VARIABLE: self._settings.encode(),
            REDIS_VARIABLE: redis,
            VARIABLE: f"{self._lifeline} {self._settings.drain + _LAST_MOMENT}",
            DIRECTORY_VARIABLE: str(self._metrics),
        }

    def _aggregator(self, number: int) -> Child:
        """Return an aggregator; where no web process shows its figures it may do so itself."""
        if self._web or self._listener is None:
            return Child("_aggregator", number)
        descriptor = self._listener.fileno()
        return Child("_aggregator", number, ["--metrics-fd", str(descriptor)], [descriptor])

    @property
    def _shown(self) -> str:
        return "" if self._listener is None else f"; its figures: {address_of(self._listener)}/metrics"

    def _start_web(self, listener: socket.socket) -> None:
        self._caps = Table(self._web)
        descriptors = [listener.fileno(), self._caps.descriptor]
        for number in range(1, self._web + 1):
            arguments = ["--fd", str(descriptors[0]), "--caps", str(descriptors[1]), str(number)]
            self._children.append(Child("_web", number, arguments, descriptors))
        threading.Thread(target=self._announce, args=[listener], daemon=True).start()

    def _announce(self, listener: socket.socket) -> None:
        """Tell the address once it answers; only then is there somebody to produce for."""
        tls = self._settings.certfile is not None
        address = address_of(listener, tls)
        if not wait_ready(listener, tls, self._over, lambda reason: log.warning("not ready yet: %s", reason)):
            return
        private = "" if self._settings.insecure else " (for this machine only: no credentials are configured)"
        self._say(f"pushsvc is ready: {address}/{private}")
        if self._producer is not None:
            self._children.append(Child("_demo", 1, [*self._producer, "--url", address]))
            with suppress(OSError):
                self._alarm_writer.send(b"\0")

    # Keeping things up

    def _look_after_children(self) -> None:
        for child in self._children:
            code = child.ended()
            if code is not None:
                multiprocess.mark_process_dead(child.slot, str(self._metrics))  # type: ignore[no-untyped-call]
                if child.role == "_web" and self._caps is not None:
                    self._caps.clear(child.number)
                child.process = None
                again = "" if child.due is None else f"; it starts again in {child.due - time.monotonic():.1f} s"
                log.warning("%s ended with code %d%s", child.name, code, again)
                if child.due is None:
                    raise StartupError(f"without {child.name} there is nothing to show")
            if child.process is None and child.due is not None and child.due <= time.monotonic():
                child.start(self._environment, self._lifeline)

    def _next_look(self) -> float | None:
        dues = [child.due for child in self._children if child.process is None]
        if self._embedded is not None:
            dues.append(self._embedded.due)
        moments = [due for due in dues if due is not None]
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    # Ending

    def _end(self) -> None:
        self._over.set()
        if self._listener is not None:
            self._listener.close()
        end = time.monotonic() + self._settings.drain
        for role in ORDER:
            self._end_children([child for child in self._children if child.role == role and child.alive], end)
        if self._embedded is not None:
            self._embedded.stop(max(end - time.monotonic(), 5.0))
        self._resources.close()
        if self._caps is not None:
            self._caps.close()
        os.close(self._lifeline)
        os.close(self._lifeline_writer)

    def _end_children(self, children: list[Child], end: float) -> None:
        end = max(end, time.monotonic()) + _LAST_MOMENT
        for child in children:
            child.signal(signal.SIGTERM)
        while (left := [child for child in children if child.alive]) and not self._hurried():
            if time.monotonic() >= end:
                log.warning("%s did not end in time", ", ".join(child.name for child in left))
                break
            self._sleep(end - time.monotonic())
        for child in left:
            child.kill()
        for child in children:
            log.info("%s has ended", child.name)

    def _hurried(self) -> bool:
        """Tell whether a second signal asks for a quick end; some terminals send the first one twice at once."""
        return bool(self._stop_asked) and self._stop_asked[-1] - self._stop_asked[0] > _LAST_MOMENT / 2


def raise_file_limit() -> None:
    """Take all the descriptors that the system grants: every subscriber is one. Children inherit the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS grants less than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else 1 << 20, hard))
