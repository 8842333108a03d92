"""The process that joblib runs in. gevent has not patched it: loky's processes never end in one that it has.

It leads a process group of its own. When the socket to the job ends, whatever became of the job, the group ends.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

_GRACE = 2.0  # seconds that an orderly end may take


class _Ended(BaseException):
    """The job is of no more interest. A function may raise SystemExit itself."""


def main() -> None:
    """Read the work from the socket whose descriptor is the argument, and send what becomes of it."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    connection.setblocking(True)  # gevent makes the sockets of a process that it has patched non-blocking
    with connection.makefile("rb") as file:
        try:
            work = _load(file)
        except (EOFError, pickle.UnpicklingError):
            return
    signal.signal(signal.SIGTERM, _end)
    threading.Thread(target=_watch, args=(connection,), name="watch the job", daemon=True).start()
    lock = threading.Lock()

    def send(message: Any) -> None:
        data = pickle.dumps(message)
        with lock, contextlib.suppress(OSError):  # the watching thread sees that the job is gone
            connection.sendall(data)

    try:
        run(work, send)
    except _Ended:
        pass
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _end_workers()


def _load(file: Any) -> Any:
    """Read the work in two steps: what is in it is imported from the path that is given first."""
    from pushsvc.jobs.worker import use_path

    use_path(pickle.load(file))
    return pickle.load(file)


def run(work: Any, send: Callable[[Any], None]) -> None:
    """Run all partitions; ``send`` is also called by threads of joblib."""
    from joblib import Parallel, delayed, parallel_config  # type: ignore[import-untyped]
    from joblib.externals.loky.process_executor import BrokenProcessPool  # type: ignore[import-untyped]

    from pushsvc.jobs.messages import Begun, Broken, Finished, Lost
    from pushsvc.jobs.worker import describe, run_partition

    def tasks() -> Iterator[Any]:
        for number, partition in work.partitions.items():
            send(Begun(number))
            yield delayed(run_partition)(work.folder, number, partition)

    try:
        with parallel_config(backend=work.backend, **work.options):
            parallel = Parallel(work.processes, return_as="generator_unordered", batch_size=1, pre_dispatch="n_jobs")
            for message in parallel(tasks()):
                send(message)
    except BrokenProcessPool as error:
        send(Lost(" ".join(str(error).split())[:500]))
    except Exception as error:  # noqa: BLE001 - a backend may raise anything
        send(Broken(describe(error), traceback.format_exc()))
    else:
        send(Finished())


def _watch(connection: socket.socket) -> None:
    """End this process and its workers when the job closes the socket or ends."""
    with contextlib.suppress(OSError):
        connection.recv(1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE)
    os.killpg(0, signal.SIGKILL)


def _end(*_: object) -> None:
    raise _Ended


def _end_workers() -> None:
    """End the workers, which would wait for further work otherwise."""
    if "joblib.externals.loky.reusable_executor" in sys.modules:
        from joblib.externals.loky import reusable_executor  # type: ignore[import-untyped]

        executor = reusable_executor._executor
        if executor is not None:
            executor.shutdown(kill_workers=True)


if __name__ == "__main__":
    main()
