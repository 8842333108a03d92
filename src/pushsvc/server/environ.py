"""The WSGI environ of a request (PEP 3333)."""

from __future__ import annotations

import io
import logging
from typing import Any
from urllib.parse import unquote_to_bytes

from pushsvc.server.headers import COMMON
from pushsvc.server.request import Request

log = logging.getLogger(__name__)

_VARIABLES = {name: "HTTP_" + name.upper().replace("-", "_") for name in COMMON} | {
    "content-type": "CONTENT_TYPE",
    "content-length": "CONTENT_LENGTH",
}


def base_environ(address: Any, scheme: str) -> dict[str, Any]:
    """Return the part that all requests to a listener share."""
    return {
        "SCRIPT_NAME": "",
        "SERVER_NAME": str(address[0]),
        "SERVER_PORT": str(address[1]),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scheme,
        "wsgi.errors": _ErrorLog(),
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }


def environ_of(
    base: dict[str, Any], request: Request, address: tuple[str, int], stream: io.BufferedIOBase
) -> dict[str, Any]:
    """Return the environ of one request from ``address`` whose body is ``stream``."""
    environ = base.copy()
    environ["REQUEST_METHOD"] = request.method
    environ["PATH_INFO"] = unquote_to_bytes(request.path).decode("latin-1") if "%" in request.path else request.path
    environ["QUERY_STRING"] = request.query
    environ["SERVER_PROTOCOL"] = "HTTP/1.1" if request.version else "HTTP/1.0"
    environ["REMOTE_ADDR"] = address[0]
    environ["REMOTE_PORT"] = str(address[1])
    environ["wsgi.input"] = stream
    for name, value in request.headers.items():
        environ[_VARIABLES.get(name) or "HTTP_" + name.upper().replace("-", "_")] = value
    return environ


class _ErrorLog(io.TextIOBase):
    """Writes ``wsgi.errors`` to the log."""

    def write(self, text: str) -> int:
        if text.strip():
            log.error("%s", text.rstrip())
        return len(text)
