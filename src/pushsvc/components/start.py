"""Runs a worker in its process; with ``reload`` it begins anew when a file of the application changes."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gevent

from pushsvc.broker.broker import Broker
from pushsvc.components.child import HandlersKilled, HandlersLost
from pushsvc.components.handlers import Handlers
from pushsvc.components.worker import ComponentWorker
from pushsvc.errors import StartupError
from pushsvc.settings import TopicRules

log = logging.getLogger(__name__)

_LOOK = 0.3  # seconds between two looks at the files


def run_worker(
    broker: Broker, rules: TopicRules, app: str, *, reload: bool, on_signal: Callable[[int, Callable[[], Any]], Any],
    on_begin: Callable[[], None],
) -> None:  # fmt: skip
    """Run the handlers of ``app`` until SIGTERM or SIGINT; call ``on_begin`` when they begin. Raise StartupError if it
    cannot be loaded, SystemExit if a later attempt may load it."""
    ended = False
    worker: ComponentWorker | None = None

    def end() -> None:
        nonlocal ended
        ended = True
        if worker is not None:
            worker.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        on_signal(number, end)
    while not ended:
        files = _python_files() if reload else []
        seen = _times(files)
        try:
            handlers = Handlers(app)
        except HandlersKilled as error:  # the application may be right: the supervisor starts this process again
            log.error("%s", error)
            sys.exit(os.EX_TEMPFAIL)
        except (StartupError, HandlersLost) as error:
            if not reload:
                raise StartupError(str(error)) from None
            log.error("%s", error)
            while not ended and _times(_python_files()) == seen:
                gevent.sleep(_LOOK)
            continue
        worker = ComponentWorker(broker, rules, handlers, on_begin=on_begin)
        files = handlers.hello.files
        seen = _times(files)
        watcher = gevent.spawn(_watch, files, seen, worker) if reload else None
        log.info("groups: %s", ", ".join(options.name for options in handlers.hello.groups))
        try:
            if not ended:
                worker.run()
        finally:
            if watcher is not None:
                watcher.kill()


def _watch(files: Sequence[str], seen: Sequence[float], worker: ComponentWorker) -> None:
    """Stop a worker when one of its files changes."""
    while _times(files) == seen:
        gevent.sleep(_LOOK)
    log.info("the application has changed: it is loaded again")
    worker.stop()


def _python_files() -> list[str]:
    """Return the modules of the working directory: until the application is loaded, its files are not known."""
    return sorted(str(path) for path in Path.cwd().glob("*.py"))[:1_000]


def _times(files: Sequence[str]) -> list[float]:
    return [os.stat(file).st_mtime if os.path.exists(file) else 0.0 for file in files]
