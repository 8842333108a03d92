"""Runs the user's WSGI application under gunicorn, on a Unix socket."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]
from gunicorn.errors import AppImportError  # type: ignore[import-untyped]
from gunicorn.util import import_app  # type: ignore[import-untyped]

from pushsvc.errors import PushError, StartupError
from pushsvc.supervisor.application import write_report
from pushsvc.supervisor.served import Report, mounts

log = logging.getLogger(__name__)

WsgiApp = Callable[[dict[str, Any], Any], Iterable[bytes]]

_HEAD = 65_536  # bytes: the server in front has checked it


class AppServer(BaseApplication):  # type: ignore[misc]
    """gunicorn with threads. ``app`` is ``module:object`` or ``module:factory()``; ``report`` gets what it tells.

    Requests that are under way at SIGTERM have ``drain`` seconds.
    """

    def __init__(
        self, app: str, *, socket: str, processes: int, threads: int, drain: int, report: Path, log_level: str
    ) -> None:  # fmt: skip
        self._app = app if ":" in app else f"{app}:app"
        self._report = report
        self._options = {
            "bind": f"unix:{socket}", "umask": 0o077, "worker_class": "gthread", "workers": processes,
            "threads": threads, "graceful_timeout": drain, "loglevel": log_level, "errorlog": "-",
            "limit_request_line": 0, "limit_request_fields": 200, "limit_request_field_size": _HEAD,
            "secure_scheme_headers": {}, "proc_name": f"pushsvc {app}", "control_socket_disable": True,
        }  # fmt: skip
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._options.items():
            if name in self.cfg.settings:  # older versions have no control socket
                self.cfg.set(name, value)

    def init(self, parser: Any, opts: Any, args: Any) -> None:
        """Take no arguments."""

    def load(self) -> WsgiApp:
        """Return the application. Each process loads it after its start."""
        sys.path.insert(0, os.getcwd())  # only now: a module of the folder must not replace one of ours
        try:
            found: WsgiApp = import_app(self._app)
            if not mounts:
                raise StartupError(f"--app {self._app}: the application has no pushsvc.Push")
        except PushError as error:
            write_report(self._report, Report(error=error.detail))
            raise AppImportError(error.detail) from None
        except AppImportError as error:
            write_report(self._report, Report(error=f"--app {self._app}: {error}"))
            raise
        except Exception as error:
            write_report(self._report, Report(error=f"--app {self._app}: {type(error).__name__}: {error}"))
            raise
        write_report(self._report, Report(tuple(mounts)))
        return _ForClients(found)


class _ForClients:
    """Tells the application the address and the scheme of the client, which the server in front has found out."""

    def __init__(self, app: WsgiApp) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        environ["REMOTE_ADDR"] = environ.get("HTTP_X_FORWARDED_FOR", "")
        environ["wsgi.url_scheme"] = environ.get("HTTP_X_FORWARDED_PROTO", "http")
        return self._app(environ, start_response)
