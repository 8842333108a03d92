"""The one listening socket that all web processes share, and the question whether somebody answers there."""

from __future__ import annotations

import errno
import socket
import ssl
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from ipaddress import ip_address

from pushsvc.errors import StartupError

BACKLOG = 1024
_POLL = 0.05
_COMPLAIN_AFTER = 15.0


def listen(host: str, port: int, *, patience: float = 2.0, option: str = "--port") -> socket.socket:
    """Return a listening socket; port 0 lets the system choose. ``patience`` is how many seconds the port may still
    be held by a program that is just ending. Raise StartupError that names the port, and the ``option`` for
    another one.

    Without SO_REUSEPORT, with which a second server would share the port unseen.
    """
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
                time.sleep(_POLL)
                continue
            raise StartupError(_reason(error, host, port, option)) from None
        return listener


def _reason(error: OSError, host: str, port: int, option: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use by another program: stop it or choose another {option}"
    if error.errno == errno.EACCES:
        return f"port {port} on {host} may not be used by this user: choose a {option} above 1023"
    return f"cannot listen on {host} port {port}: {error.strerror}"


def _reachable(listener: socket.socket) -> tuple[str, int]:
    """Return an address at which this machine reaches the listener."""
    host, port = listener.getsockname()[:2]
    if ip_address(host).is_unspecified:
        host = "::1" if listener.family == socket.AF_INET6 else "127.0.0.1"
    return host, port


def address_of(listener: socket.socket, tls: bool = False) -> str:
    """Return the URL of a listener for this machine, without a slash at the end."""
    host, port = _reachable(listener)
    scheme = "https" if tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def wait_ready(listener: socket.socket, tls: bool, over: threading.Event, complain: Callable[[str], None]) -> bool:
    """Ask ``/readyz`` until it says yes (True) or ``over`` is set (False); complain once if that takes long."""
    host, port = _reachable(listener)
    moment: float | None = time.monotonic() + _COMPLAIN_AFTER
    while not over.is_set():
        reason = _ask(host, port, tls)
        if reason is None:
            return True
        if moment is not None and time.monotonic() > moment:
            complain(reason)
            moment = None
        over.wait(_POLL)
    return False


def _ask(host: str, port: int, tls: bool) -> str | None:
    """Return None when ready, else what hinders."""
    connection = _connection(host, port, tls)
    try:
        connection.request("GET", "/readyz", headers={"Host": "localhost"})
        answer = connection.getresponse()
        body = answer.read(1_000).decode(errors="replace")
        return None if answer.status == 200 else body
    except (OSError, HTTPException) as error:
        return str(error) or type(error).__name__
    finally:
        connection.close()


def _connection(host: str, port: int, tls: bool) -> HTTPConnection:
    if not tls:
        return HTTPConnection(host, port, timeout=5)
    # We speak to ourselves, by an address that no certificate names.
    context = ssl._create_unverified_context()
    return HTTPSConnection(host, port, timeout=5, context=context)
