"""The listening socket that all web processes share, and the wait until a server answers there."""

import errno
import math
import socket
import ssl
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from ipaddress import ip_address

from pushsvc.errors import StartupError

BACKLOG = 65_535
"""Connections that may wait to be accepted. The system lowers it to its own maximum, on Linux ``somaxconn``."""

_POLL_INTERVAL = 0.05
_WARN_AFTER = 15.0  # seconds without readiness before one warning


def listen(host: str, port: int, *, patience: float = 2.0, option: str = "--port") -> socket.socket:
    """Return a listening socket; port 0 lets the system choose one.

    Wait up to ``patience`` seconds for a program that is just ending to release the port. Raise StartupError with the
    port and the ``option`` that chooses another one.
    """
    # No SO_REUSEPORT: with it, a second server could share the port unnoticed.
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        raise StartupError(f"cannot listen on {host!r}: there is no such host") from None
    end = time.monotonic() + patience
    while True:
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            if error.errno == errno.EADDRINUSE and time.monotonic() < end:
                time.sleep(_POLL_INTERVAL)
                continue
            raise StartupError(_reason(error, host, port, option)) from None
        return listener


def _reason(error: OSError, host: str, port: int, option: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use by another program: stop it or choose another {option}"
    if error.errno == errno.EACCES:
        return f"port {port} on {host} is not allowed for this user: choose a {option} above 1023"
    return f"cannot listen on {host} port {port}: {error.strerror}"


def _reachable(listener: socket.socket) -> tuple[str, int]:
    """Return an address of the listener that works on this machine."""
    host, port = listener.getsockname()[:2]
    if ip_address(host).is_unspecified:
        host = "::1" if listener.family == socket.AF_INET6 else "127.0.0.1"
    return host, port


def address_of(listener: socket.socket, tls: bool = False) -> str:
    """Return a URL of the listener that works on this machine, without a final slash."""
    host, port = _reachable(listener)
    scheme = "https" if tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def wait_ready(listener: socket.socket, tls: bool, stopped: threading.Event, warn: Callable[[str], None]) -> bool:
    """Request ``/readyz`` until it answers 200 (True) or ``stopped`` is set (False); warn once if that takes long."""
    host, port = _reachable(listener)
    warn_at = time.monotonic() + _WARN_AFTER
    while not stopped.is_set():
        reason = _not_ready_reason(host, port, tls)
        if reason is None:
            return True
        if time.monotonic() > warn_at:
            warn(reason)
            warn_at = math.inf
        stopped.wait(_POLL_INTERVAL)
    return False


def _not_ready_reason(host: str, port: int, tls: bool) -> str | None:
    """Return why the server is not ready; None if it is."""
    connection = HTTPConnection(host, port, timeout=5)
    if tls:  # our own server, by an address that no certificate names
        connection = HTTPSConnection(host, port, timeout=5, context=ssl._create_unverified_context())
    try:
        connection.request("GET", "/readyz", headers={"Host": "localhost"})
        answer = connection.getresponse()
        body = answer.read(1_000).decode(errors="replace")
        return None if answer.status == 200 else body
    except (OSError, HTTPException) as error:
        return str(error) or type(error).__name__
    finally:
        connection.close()
