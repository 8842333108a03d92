"""The processes under the supervisor, each with a growing pause between its restarts."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from pushsvc.broker.embedded import EmbeddedServer
from pushsvc.broker.system_memory import usable_memory
from pushsvc.config import Settings
from pushsvc.errors import StartupError
from pushsvc.metrics import SLOT_VARIABLE
from pushsvc.supervisor.heartbeat import HEARTBEAT_VARIABLE

log = logging.getLogger(__name__)

STARTUP_ERROR = 1  # exit code of a child that printed why it cannot run
_SHORTEST, _LONGEST = 0.1, 10.0  # seconds before a restart
_HEALTHY = 10.0  # seconds of work after which the next pause is the shortest again


class RestartBackoff:
    """The pause before the next start of a process. It doubles with each early end."""

    def __init__(self) -> None:
        self._pause = _SHORTEST / 2

    def after(self, worked: float) -> float:
        """Return the pause in seconds after a process that worked for so many seconds."""
        self._pause = _SHORTEST if worked > _HEALTHY else min(self._pause * 2, _LONGEST)
        return self._pause


class ChildProcess:
    """A web, aggregator, application or demo process. ``due`` is the time of its next start (None: not planned).

    ``beats`` is the number of its heartbeat counter, if it has a loop that is watched.
    """

    def __init__(
        self, role: str, number: int, arguments: Sequence[str] = (), descriptors: Sequence[int] = (), *,
        beats: int | None = None,
    ) -> None:  # fmt: skip
        self.role, self.number = role, number
        self.name = f"{role.lstrip('_')} {number}"
        self.slot = self.name.replace(" ", "-")
        self.due: float | None = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._arguments = list(arguments)
        self._descriptors = tuple(descriptors)
        self.beats = beats
        self._backoff = RestartBackoff()
        self._started = 0.0
        self._was_healthy = False

    @property
    def is_due(self) -> bool:
        """Whether it is time to start the process."""
        return self._process is None and self.due is not None and self.due <= time.monotonic()

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def start(self, environment: dict[str, str], shared: Sequence[int], heartbeats: int) -> None:
        """Start the process; it inherits the descriptors ``shared``, and ``heartbeats`` if it has a heartbeat."""
        descriptors = (*self._descriptors, *shared)
        if self.beats is not None:
            environment = environment | {HEARTBEAT_VARIABLE: f"{heartbeats} {self.beats}"}
            descriptors = (*descriptors, heartbeats)
        self._started, self.due = time.monotonic(), None
        # -P: a module in the user's folder must not replace one of ours.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "pushsvc", self.role, *self._arguments],
            env=environment | {SLOT_VARIABLE: self.slot},
            stdin=subprocess.DEVNULL,
            pass_fds=descriptors,
            start_new_session=True,  # Ctrl-C in the terminal reaches only the parent, which stops the children in order
        )

    def reap(self, worked: float | None = None) -> int | None:
        """Return the exit code once after the process ended, and plan its restart; otherwise None.

        ``worked`` is for how many seconds it did its work: on a slow machine its start alone takes long. Without it,
        the life of the process counts.
        """
        code = None if self._process is None else self._process.poll()
        if code is None:
            return None
        self._process = None
        now = time.monotonic()
        worked = now - self._started if worked is None else worked
        self._was_healthy |= worked > _HEALTHY
        # A module that breaks later must not end the server beside it.
        needed = self.role == "_demo" or (self.role == "_worker" and not self._was_healthy)
        if not needed or code != STARTUP_ERROR:
            self.due = now + self._backoff.after(worked)
        return code

    def terminate(self) -> None:
        self.send(signal.SIGTERM)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, if there is one."""
        if self._process is not None:
            self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            if self.role == "_app":  # it leads processes that would outlive it while a view is stuck
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
            self._process.kill()
            self._process.wait()

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None


def embedded_server(settings: Settings) -> EmbeddedServer:
    """Return the embedded server of the settings. Without a setting it may take half of the memory."""
    limit = usable_memory() // 2 if settings.maxmemory is None else settings.maxmemory
    return EmbeddedServer(settings.data_dir, options={"maxmemory": str(limit)})


class EmbeddedChild:
    """The embedded server as a child of the supervisor."""

    def __init__(self, server: EmbeddedServer, announce: Callable[[str], None]) -> None:
        self._server = server
        self._announce = announce
        self._backoff = RestartBackoff()
        self._due = self._started = 0.0

    @property
    def due(self) -> float | None:
        """The time of the next start; None while the server runs."""
        return None if self._server.alive() else self._due

    def start(self) -> str:
        """Start the server and return its URL, which stays the same over restarts."""
        self._started = time.monotonic()
        self._server.start()
        limit = self._server.maxmemory
        bound = f"at most {limit / 10**6:,.0f} MB of memory" if limit else "no limit of memory"
        self._announce(f"data is kept in {self._server.data_dir}, with {bound} (--maxmemory)")
        return self._server.url

    def restart_if_due(self) -> None:
        due = self.due
        if due is None or time.monotonic() < due:
            return
        log.error("the embedded server ended and is started again; its last output:\n%s", self._server.last_output())
        try:
            self.start()
        except StartupError as error:
            log.error("%s", error)
        now = time.monotonic()
        self._due = now + self._backoff.after(now - self._started)

    def stop(self, timeout: float) -> None:
        ran = self._server.alive()
        self._server.stop(timeout)
        if ran:
            log.info("the embedded server has ended")
