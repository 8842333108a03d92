"""The process of the handlers: it does what its worker asks over a socket, and ends with it.

Nothing in it is patched: handlers may block, use threads and start processes as in any program.
"""

from __future__ import annotations

import signal
import socket
import traceback
from collections.abc import Sequence

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
    try:
        worker.sendall(encode(Hello([options_of(group) for group in components.groups.values()], source_files())))
        _serve(worker, Executor(components))
    except (EOFError, ConnectionError):
        return  # the worker has ended


def _serve(worker: socket.socket, executor: Executor) -> None:
    reader = MessageReader(worker, Request)

    def send(message: Response) -> None:
        worker.sendall(encode(message))

    def fetch(topic: str, keys: list[str]) -> Sequence[bytes | None]:
        send(GetStates(topic, keys))
        answer = reader.read()
        if not isinstance(answer, States):
            raise ConnectionError("the worker does not answer")
        return answer.values

    while True:
        request = reader.read()
        if isinstance(request, Forget):
            executor.forget(request.group, request.partition, request.topic)
        elif isinstance(request, Run):
            done: Done = executor.run(request, fetch)
            send(done)
