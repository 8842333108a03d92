"""The process of the handlers: it does what its worker asks over a socket, and ends with it.

Nothing in it is patched: handlers may block, use threads and start processes as in any program.
"""

from __future__ import annotations

import signal
import socket
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from pushsvc.components.executor import Executor, options_of
from pushsvc.components.load import load_components, source_files
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


class WorkerLost(BaseException):
    """The worker has ended. No ``except Exception`` of a handler may take it for a failure of its own and go on."""


def run(app: str, descriptor: int) -> None:
    """Serve the worker at an inherited socket until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the worker, which ends this process in its time
    worker = socket.socket(fileno=descriptor)
    worker.setblocking(True)
    worker.set_inheritable(False)
    try:
        components = load_components(app)
    except StartupError as error:
        worker.sendall(encode(Unusable(error.detail)))
        return
    except BaseException:  # noqa: BLE001 - whatever the user's module raises
        worker.sendall(encode(Unusable(f"the module cannot be loaded:\n{traceback.format_exc(limit=-20)}")))
        return
    hello = Hello([options_of(group) for group in components.groups.values()], source_files())
    with suppress(WorkerLost):
        _serve(worker, Executor(components), hello)


def _serve(worker: socket.socket, executor: Executor, hello: Hello) -> NoReturn:
    """Do what the worker asks. Raise WorkerLost in the end."""
    reader = MessageReader(worker, Request)

    def send(message: Response) -> None:
        try:
            worker.sendall(encode(message))
        except OSError as error:
            raise WorkerLost from error

    def read() -> Request:
        try:
            request: Request = reader.read()
        except (EOFError, OSError) as error:
            raise WorkerLost from error
        return request

    def fetch(topic: str, keys: list[str]) -> Sequence[bytes | None]:
        send(GetStates(topic, keys))
        answer = read()
        if not isinstance(answer, States):
            raise WorkerLost
        return answer.values

    send(hello)
    while True:
        request = read()
        if isinstance(request, Forget):
            executor.forget(request.group, request.partition, request.topic)
        elif isinstance(request, Run):
            done: Done = executor.run(request, fetch)
            send(done)
