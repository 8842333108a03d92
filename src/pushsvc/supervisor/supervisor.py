"""The supervisor opens the port, starts the embedded server and the children, and stops them in order.

It uses no gevent and patches nothing: signals, processes and sockets are those of the system.
"""

import logging
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from prometheus_client import multiprocess

from pushsvc.config import Settings
from pushsvc.config.access import check_access
from pushsvc.errors import StartupError
from pushsvc.metrics import DIRECTORY_VARIABLE
from pushsvc.server.caps import ConnectionCounts
from pushsvc.settings import Ack
from pushsvc.supervisor.allocator import allocator_variables
from pushsvc.supervisor.application import ApplicationChildren, ApplicationProcesses
from pushsvc.supervisor.child_settings import SETTINGS_VARIABLE, share_settings, without_settings
from pushsvc.supervisor.children import ChildProcess, EmbeddedChild, embedded_server
from pushsvc.supervisor.folders import private_folder
from pushsvc.supervisor.heartbeat import DUMP, INTERVAL, Heartbeats
from pushsvc.supervisor.lifeline import LIFELINE_VARIABLE
from pushsvc.supervisor.listener import address_of, listen, wait_ready
from pushsvc.supervisor.loop_watch import LoopWatch, Verdict
from pushsvc.supervisor.preflight import check_certificate, check_redis, check_transport, redis_url
from pushsvc.supervisor.served import differing
from pushsvc.supervisor.signals import Signals

log = logging.getLogger(__name__)

# Roles in the order of their stop: producers first, aggregators last, then the embedded server.
# An application publishes until its end, so the web processes must outlive it.
STOP_ORDER = ("_demo", "_worker", "_app", "_web", "_aggregator")
_MIN_STOP = 2.0  # seconds that the processes of a role always have to end, however long the roles before took
_MIN_EMBEDDED_STOP = 5.0
_TOKEN_VARIABLE = "PUSHSVC_TOKEN"  # noqa: S105 - of clients: a demo's producer is one
_BEGIN_INTERVAL = 0.05  # seconds between two looks whether a worker has begun


@dataclass(frozen=True, slots=True)
class ComponentProcesses:
    """Workers that run the handlers of ``app``."""

    app: str
    processes: int = 1
    reload: bool = False


class Supervisor:
    """Runs ``web``, ``aggregators`` and ``components`` children until SIGTERM or Ctrl-C; ``producer`` has the arguments
    of a demo's.

    ``announce`` prints a line for the operator. Without ``settings.redis``, an embedded server runs on
    ``settings.data_dir``. ``on_ready`` gets the address when the web processes answer there. ``run`` must be called in
    the main thread, because it handles the signals of the process.
    """

    def __init__(
        self, settings: Settings, *, web: int = 0, aggregators: int = 0,
        components: ComponentProcesses | None = None, application: ApplicationProcesses | None = None,
        producer: Sequence[str] | None = None, announce: Callable[[str], None],
        on_ready: Callable[[str], None] | None = None,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._web, self._aggregators, self._producer = web, aggregators, producer
        self._components, self._application = components, application
        self._announce, self._on_ready = announce, on_ready
        self._listener: socket.socket | None = None
        self._metrics_listener: socket.socket | None = None
        self._embedded: EmbeddedChild | None = None
        self._caps: ConnectionCounts | None = None
        self._app_children: ApplicationChildren | None = None
        self._behind: list[str] = []  # arguments of web processes about the application
        self._children: list[ChildProcess] = []
        self._environment: dict[str, str] = {}
        self._shared_settings = -1, -1  # without the keys of tokens, and with them, for web processes
        self._resources = ExitStack()
        self._metrics = Path()
        self._lifeline, self._lifeline_writer = os.pipe()
        self._signals = Signals()
        self._heartbeats = Heartbeats(web + aggregators + (components.processes if components else 0) + 1)
        self._watch = LoopWatch(settings.watchdog, time.monotonic())
        self._stopped = threading.Event()

    def run(self) -> None:
        """Return after an orderly stop. Raise StartupError if the server cannot start."""
        with self._signals.caught():
            try:
                self._signals.call_unless_stopping(self._start)
                while not self._signals.stopping:
                    self._watch_loops()
                    self._restart_children()
                    if self._embedded is not None:
                        # A large append-only file takes minutes to load.
                        self._signals.call_unless_stopping(self._embedded.restart_if_due)
                    self._signals.sleep(self._until_next_look())
            finally:
                self._stop()

    # Start

    def _start(self) -> None:
        raise_file_limit()
        if self._application is not None:
            self._start_application(self._application)
        settings = self._settings
        if self._web:
            check_certificate(settings.certfile, settings.keyfile)
            check_access(settings, log.warning)
            check_transport(settings, log.warning)
            self._listener = listen(settings.host, settings.port)
        if settings.metrics_port is not None and (self._aggregators or self._components is not None):
            self._metrics_listener = listen(settings.metrics_host, settings.metrics_port, option="--metrics-port")
        redis = redis_url(settings)
        if redis is None:
            self._embedded = EmbeddedChild(embedded_server(settings), self._announce)
            redis = self._embedded.start()
        ack = settings.ack if self._web else Ack()
        rules = settings.topics if self._embedded is None else None  # an embedded server has no other programs
        check_redis(redis, settings.prefix, wait=settings.wait, warn=log.warning, ack=ack, rules=rules)
        self._environment = self._child_environment(redis)
        self._children += [self._aggregator(n + 1) for n in range(self._aggregators)]
        if self._components is not None:
            self._children += [self._worker(self._components, n + 1) for n in range(self._components.processes)]
        at = "" if self._metrics_listener is None else f"metrics: {address_of(self._metrics_listener)}/metrics"
        if self._listener is not None:
            if at:
                self._announce(at)
            self._start_web(self._listener)
            at = ""
        elif self._components is None:
            self._announce_begin("_aggregator", "the aggregator works", at)
        if self._components is not None:
            self._announce_begin("_worker", "the worker works", at)

    def _announce_begin(self, role: str, text: str, at: str) -> None:
        """Announce that a child of a role has begun: it holds leases."""
        numbers = [child.beats for child in self._children if child.role == role and child.beats is not None]

        def watch() -> None:
            while not self._stopped.wait(_BEGIN_INTERVAL):
                if any(map(self._heartbeats.has_begun, numbers)):
                    self._announce("; ".join(filter(None, (text, at))))
                    return

        threading.Thread(target=watch, daemon=True).start()

    def _start_application(self, application: ApplicationProcesses) -> None:
        """Start the application, and take over the settings in its configuration."""
        app = self._app_children = ApplicationChildren(application, self._settings, self._resources)
        self._children += app.children
        report = app.start(self._start_child)
        for name in differing(report.mounts):
            log.warning("WARNING: applications of one server set PUSHSVC_%s differently: the last counts", name.upper())
        for mount in report.mounts:
            self._settings = mount.apply(self._settings)
        self._behind = ["--behind", app.behind(report, self._web)]

    def _start_child(self, child: ChildProcess) -> None:
        if child.role == "_app" and self._app_children is not None:
            lifeline = f"{self._lifeline} {self._settings.drain + _MIN_STOP}"
            child.start(self._app_children.environment(lifeline, LIFELINE_VARIABLE), [self._lifeline], -1)
            return
        settings = self._shared_settings[child.role == "_web"]
        environment = self._environment | {SETTINGS_VARIABLE: str(settings)}
        if child.role == "_web":
            environment |= allocator_variables(os.environ)
        if child.role == "_demo" and (token := os.environ.get(_TOKEN_VARIABLE)):
            environment[_TOKEN_VARIABLE] = token
        child.start(environment, (self._lifeline, settings), self._heartbeats.descriptor)

    def _child_environment(self, redis: str) -> dict[str, str]:
        self._metrics = self._resources.enter_context(private_folder("metrics"))
        settings = replace(self._settings, redis=redis)
        self._shared_settings = share_settings(settings.without_keys()), share_settings(settings)
        for descriptor in self._shared_settings:
            self._resources.callback(os.close, descriptor)
        return without_settings(dict(os.environ)) | {
            LIFELINE_VARIABLE: f"{self._lifeline} {self._settings.drain + _MIN_STOP}",
            DIRECTORY_VARIABLE: str(self._metrics),
        }

    def _aggregator(self, number: int) -> ChildProcess:
        """Return an aggregator process. It serves the metrics port, if there is one."""
        arguments, descriptors = self._metrics_arguments()
        return ChildProcess("_aggregator", number, arguments, descriptors, beats=number)

    def _metrics_arguments(self) -> tuple[list[str], list[int]]:
        """Return the arguments and the descriptors of a process that serves the metrics port."""
        if self._metrics_listener is None:
            return [], []
        descriptor = self._metrics_listener.fileno()
        return ["--metrics-fd", str(descriptor)], [descriptor]

    def _worker(self, components: ComponentProcesses, number: int) -> ChildProcess:
        """Return a worker of components. It serves the metrics port if there is no aggregator to do so."""
        metrics, descriptors = ([], []) if self._aggregators else self._metrics_arguments()
        arguments = ["--app", components.app, *(["--reload"] if components.reload else []), *metrics]
        beats = self._web + self._aggregators + number
        return ChildProcess("_worker", number, arguments, descriptors, beats=beats)

    def _start_web(self, listener: socket.socket) -> None:
        self._caps = ConnectionCounts(self._web)
        descriptors = [listener.fileno(), self._caps.descriptor]
        if self._app_children is not None:
            descriptors.append(self._app_children.inner.fileno())
        for number in range(1, self._web + 1):
            arguments = ["--fd", str(descriptors[0]), "--caps", str(descriptors[1]), str(number), *self._behind]
            child = ChildProcess("_web", number, arguments, descriptors, beats=self._aggregators + number)
            self._children.append(child)
        threading.Thread(target=self._announce_ready, args=[listener], daemon=True).start()

    def _announce_ready(self, listener: socket.socket) -> None:
        """Announce the address when the server answers there, then start the demo's producer."""
        tls = self._settings.certfile is not None
        address = address_of(listener, tls)
        # In front of an application, /readyz is a page of it.
        inner = None if self._app_children is None else self._app_children.inner
        asked, by_tls = (listener, tls) if inner is None else (inner, False)
        if not wait_ready(asked, by_tls, self._stopped, lambda reason: log.warning("not ready yet: %s", reason)):
            return
        is_public = self._settings.insecure or self._settings.authorizes
        private = "" if is_public else " (for this machine only: no credentials are configured)"
        self._announce(f"pushsvc is ready: {address}/{private}")
        if self._on_ready is not None:
            self._on_ready(address)
        if self._producer is not None:
            self._children.append(ChildProcess("_demo", 1, [*self._producer, "--url", address]))
            self._signals.wake()

    # Restarts

    def _watch_loops(self) -> None:
        """Replace children whose loop stands still; before that they write their stacks."""
        if not self._settings.watchdog:
            return
        watched = {child.pid: child for child in self._children if child.beats is not None and child.pid is not None}
        counts = {pid: self._heartbeats.count(child.beats or 0) for pid, child in watched.items()}
        for pid, verdict in self._watch.look(counts, time.monotonic()).items():
            child = watched[pid]
            if verdict is Verdict.DUMP:
                log.error(
                    "the loop of %s (process %d) stands still for %d s; it is about to be replaced. Its stacks:",
                    child.name, pid, self._settings.watchdog,
                )  # fmt: skip
                child.send(DUMP)
            elif verdict is Verdict.REPLACE:
                child.send(signal.SIGKILL)

    def _restart_children(self) -> None:
        for child in self._children:
            code = child.reap(self._worked(child))
            if code is not None:
                self._on_end(child, code)
            if child.is_due:
                self._start_child(child)

    def _worked(self, child: ChildProcess) -> float | None:
        """Return for how many seconds the loop of a child has run; None for a child without a heartbeat.

        That of a worker runs while its handlers are imported, too, which is no work yet.
        """
        if child.beats is None:
            return None
        if child.role == "_worker" and not self._heartbeats.has_begun(child.beats):
            return 0.0
        return self._heartbeats.count(child.beats) * INTERVAL

    def _on_end(self, child: ChildProcess, code: int) -> None:
        multiprocess.mark_process_dead(child.slot, str(self._metrics))  # type: ignore[no-untyped-call]
        if child.beats is not None:
            self._heartbeats.clear(child.beats)
        if child.role == "_web" and self._caps is not None:
            self._caps.clear(child.number)
        again = "" if child.due is None else f"; it starts again in {child.due - time.monotonic():.1f} s"
        log.warning("%s ended with code %d%s", child.name, code, again)
        if child.due is None:
            needs = "and the demo needs it" if child.role == "_demo" else "see above"
            raise StartupError(f"{child.name} cannot run, {needs}")

    def _until_next_look(self) -> float | None:
        """Return the seconds until a process is due or the loops are to be looked at; None if neither."""
        dues = [child.due for child in self._children]
        if self._embedded is not None:
            dues.append(self._embedded.due)
        due = min((due for due in dues if due is not None), default=None)
        until = None if due is None else max(0.0, due - time.monotonic())
        if not self._settings.watchdog:
            return until
        return INTERVAL if until is None else min(INTERVAL, until)

    # Stop

    def _stop(self) -> None:
        self._stopped.set()
        for listener in (self._listener, self._metrics_listener):
            if listener is not None:
                listener.close()
        deadline = time.monotonic() + self._settings.drain
        for role in STOP_ORDER:
            self._stop_children([child for child in self._children if child.role == role and child.alive], deadline)
        if self._embedded is not None:
            self._embedded.stop(max(deadline - time.monotonic(), _MIN_EMBEDDED_STOP))
        self._resources.close()
        if self._caps is not None:
            self._caps.close()
        self._heartbeats.close()
        os.close(self._lifeline)
        os.close(self._lifeline_writer)

    def _stop_children(self, children: list[ChildProcess], deadline: float) -> None:
        deadline = max(deadline, time.monotonic()) + _MIN_STOP
        for child in children:
            child.terminate()
        while (left := [child for child in children if child.alive]) and not self._signals.hurried:
            if time.monotonic() >= deadline:
                log.warning("%s did not end in time", ", ".join(child.name for child in left))
                break
            self._signals.sleep(deadline - time.monotonic())
        for child in left:
            child.kill()
        for child in children:
            log.info("%s has ended", child.name)


def raise_file_limit() -> None:
    """Raise the limit of open files to the system's maximum, because every subscriber is one. Children inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS grants less than its limit says
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else 1 << 20, hard))
