"""The process of the handlers, as its worker sees it."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Sequence

from pushsvc.components.messages import (
    Done,
    Forget,
    GetStates,
    Hello,
    MessageReader,
    Request,
    Response,
    Run,
    States,
    Unusable,
    encode,
)
from pushsvc.errors import StartupError

_START = 120.0  # seconds that the import of a module may take
_STOP = 2.0


class HandlersLost(Exception):
    """The process ended or did not answer in time; what it was doing has no effect."""


class HandlersKilled(HandlersLost):
    """A signal ended the process, as of a system without memory."""


class HandlerProcess:
    """Starts the process, which loads ``app``; ``hello`` describes what it found there. Raise StartupError for a module
    that cannot be used, HandlersLost if the process ends."""

    def __init__(self, app: str) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-P", "-m", "pushsvc", "_components", app, str(theirs.fileno())]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
        self._reader = MessageReader(self._socket, Response)
        answer = self._receive(_START)
        if isinstance(answer, Unusable):
            self.end()
            raise StartupError(answer.detail)
        if not isinstance(answer, Hello):
            raise HandlersLost("the process does not greet")
        self.hello = answer

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def run(self, run: Run, states: Callable[[str, list[str]], Sequence[bytes | None]], timeout: float) -> Done:
        """Let the process handle something; ``states`` returns those it asks for. Raise HandlersLost, and what
        ``states`` raises: then the process is of no use any more."""
        self._send(run)
        while True:
            answer = self._receive(timeout)
            if isinstance(answer, Done):
                return answer
            if not isinstance(answer, GetStates):
                raise HandlersLost("the process sends something else than an answer")
            self._send(States(list(states(answer.topic, answer.keys))))

    def forget(self, group: str, partition: int, topic: str | None = None) -> None:
        """Let the process forget states."""
        self._send(Forget(group, partition, topic))

    def end(self) -> None:
        """End the process: at once, unless it is idle."""
        self._socket.close()
        try:
            self._process.wait(_STOP)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def kill(self) -> None:
        """End the process whatever it does."""
        self._process.kill()
        self.end()

    def _send(self, message: Request) -> None:
        try:
            self._socket.settimeout(_START)
            self._socket.sendall(encode(message))
        except OSError as error:
            raise self._lost(error) from None

    def _receive(self, timeout: float) -> Hello | Unusable | GetStates | Done:
        try:
            self._socket.settimeout(timeout)
            answer: Hello | Unusable | GetStates | Done = self._reader.read()
        except TimeoutError:
            self._process.kill()
            raise HandlersLost(f"the handlers did not return within {timeout:.0f} s") from None
        except (EOFError, OSError) as error:
            raise self._lost(error) from None
        return answer

    def _lost(self, error: Exception) -> HandlersLost:
        try:
            code = self._process.wait(_STOP)
        except subprocess.TimeoutExpired:
            return HandlersLost(f"the process of the handlers is lost: {error}")
        kind = HandlersKilled if code < 0 else HandlersLost
        return kind(f"the process of the handlers ended with code {code}")
