"""The server behind an application: a process of ours with its children, on a loopback port.

It serves what the application has allowed, and nothing else: every request needs a token that this process signs.
The server ends with the process of the application, however that ends.
"""

from __future__ import annotations

import atexit
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from http.client import HTTPConnection
from ipaddress import ip_network
from typing import Protocol
from urllib.parse import urlsplit

import jwt

from pushsvc.auth.grants import Grants, claim_of
from pushsvc.auth.tokens import LONGEST_TOKEN
from pushsvc.config import Settings
from pushsvc.errors import StartupError, Unavailable
from pushsvc.extension.lazily import Lazily, forget
from pushsvc.supervisor.child_settings import SETTINGS_VARIABLE, share_settings, without_settings
from pushsvc.supervisor.lifeline import LIFELINE_VARIABLE
from pushsvc.supervisor.served import Served, served
from pushsvc.system_clock import now_ms

RECHECK = 300.0
"""Seconds after which the application is asked again, unless its answer says less."""

_START = 60.0  # seconds that a start may take: Valkey reads its data
_FIRST = 10.0  # the same over a Redis that runs already
_FAILED_FOR = 1.0  # seconds for which a failed start is not tried again
_GRACE = 10  # seconds that the embedded server has to write its data, after ``drain``
_PROXY = str(ip_network("127.0.0.1"))


class ServerUnavailable(Unavailable):
    slug, title = "push-server-unavailable", "The push server does not run"


class Signer:
    """Signs tokens for a server with its key."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def sign(self, grants: Grants) -> tuple[str, float]:
        """Return a token that holds until the grants expire, and for 5 minutes at most, and the time of its end."""
        now = now_ms() / 1_000
        expires = min(grants.expires, now + RECHECK)
        claims = {"iat": now, "exp": expires, "pushsvc": claim_of(grants)}
        if grants.subject:
            claims["sub"] = grants.subject
        token = jwt.encode(claims, self._secret, "HS256")
        if len(token) > LONGEST_TOKEN:
            raise ValueError(f"the grants of {grants.subject!r} make a token longer than {LONGEST_TOKEN} characters")
        return token, expires


class PushServer(Protocol):
    """What publishes, and serves what the application has allowed. Threads may share it."""

    @property
    def first_start(self) -> float:
        """Return how many seconds the first start in this process may take; 0 when it has ended, well or not."""
        ...

    def start(self, timeout: float | None = None) -> None:
        """Return when the server answers. Raise ServerUnavailable with the reason why it cannot run, or after
        ``timeout`` seconds."""

    def connect(self, timeout: float) -> HTTPConnection:
        """Return a connection to the server. Raise ServerUnavailable."""
        ...

    def token(self, grants: Grants) -> str:
        """Return a token for the server that holds until the grants expire, and for 5 minutes at most."""
        ...


class ServerInFront:
    """The server of ``pushsvc serve --app``, which runs already and has this application behind it."""

    def __init__(self, of: Served) -> None:
        self._address = of.host, of.port
        self.signer = Signer(of.settings.jwt_key or "")

    @property
    def first_start(self) -> float:
        return 0.0

    def start(self, timeout: float | None = None) -> None:
        """Return: whoever started this process started the server."""

    def connect(self, timeout: float) -> HTTPConnection:
        return _connected(*self._address, timeout)

    def token(self, grants: Grants) -> str:
        return self.signer.sign(grants)[0]


class _Attempt:
    """An attempt to start the server, which several threads wait for. ``failure`` is why there is none."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.ended_at = 0.0
        self.failure: str | None = None

    def end(self, failure: str | None) -> None:
        self.failure, self.ended_at = failure, time.monotonic()
        self.ended.set()

    def failed_just_now(self) -> bool:
        return self.failure is not None and time.monotonic() < self.ended_at + _FAILED_FOR


class Server:
    """Starts the server when its address is first needed, and again after it has ended. Threads may share it."""

    _starting = Lazily(threading.Lock)

    def __init__(self, settings: Settings) -> None:
        secret = secrets.token_urlsafe(32)
        self._signer = Signer(secret)
        # The address of the client comes from the application, which knows its own proxies.
        self._settings = replace(
            settings, host="127.0.0.1", port=0, jwt_key=secret, jwt_needs_expiry=True, jwt_leeway=1,
            trusted_proxy=(_PROXY,), max_connections_per_address=0,
        )  # fmt: skip
        self._forget()

    def _forget(self) -> None:
        forget(self, "_starting")
        self._attempt: _Attempt | None = None  # the last one
        self._has_tried = False
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline = -1
        self._netloc = "", 0

    def after_fork(self) -> None:
        """Leave the server to the parent: a child of this process starts its own."""
        if self._lifeline >= 0:
            os.close(self._lifeline)  # else the server would outlive the parent
        self._forget()

    @property
    def runs(self) -> bool:
        """Return whether the server has started and has not ended."""
        return bool(self._netloc[0]) and self._process is not None and self._process.poll() is None

    @property
    def first_start(self) -> float:
        if self._has_tried:
            return 0.0
        return _START if self._settings.redis is None else _FIRST

    def start(self, timeout: float | None = None) -> None:
        """Return when the server answers. Raise ServerUnavailable with the reason why it cannot run.

        After ``timeout`` seconds the start goes on without the caller.
        """
        if self.runs:
            return
        with self._starting:
            if self.runs:
                return
            attempt = self._attempt
            if attempt is None or (attempt.ended.is_set() and not attempt.failed_just_now()):
                attempt = self._attempt = _Attempt()
                threading.Thread(target=self._try, args=[attempt], name="pushsvc-start", daemon=True).start()
        if not attempt.ended.wait(timeout):
            raise ServerUnavailable(f"the push server did not start within {timeout:g} s, and its start goes on")
        if attempt.failure is not None:
            raise ServerUnavailable(attempt.failure)

    def _try(self, attempt: _Attempt) -> None:
        failure: str | None = "the push server did not start"
        try:
            self._netloc = "", 0  # that of the server that ended
            self._end_lifeline()
            self._netloc = self._launch()
            failure = None
        except StartupError as error:
            failure = error.detail
        finally:
            self._has_tried = True
            attempt.end(failure)

    def connect(self, timeout: float) -> HTTPConnection:
        """Return a connection to the server, which is started if need be. Raise ServerUnavailable."""
        self.start(timeout)
        return _connected(*self._netloc, timeout)

    def token(self, grants: Grants) -> str:
        """Return a token for the server that holds until the grants expire, and for 5 minutes at most."""
        return self._signer.sign(grants)[0]

    def stop(self) -> None:
        """End the server in order: streams are told to come back, and the embedded Valkey writes its data."""
        process, self._netloc = self._process, ("", 0)
        self._end_lifeline()
        if process is not None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(self._settings.drain + _GRACE)
        self._process = None

    def _end_lifeline(self) -> None:
        if self._lifeline >= 0:
            with suppress(OSError):  # the server has ended
                # Where gevent has patched the process, closing waits for the next turn of the loop, which may not come.
                os.write(self._lifeline, b"\n")
            os.close(self._lifeline)
            self._lifeline = -1

    def _launch(self) -> tuple[str, int]:
        """Start the process, and return the address that it reports. Raise StartupError."""
        settings = share_settings(self._settings)
        read, self._lifeline = os.pipe()
        mine, theirs = socket.socketpair()
        with mine, theirs:
            try:
                # -P: a module in the user's folder must not replace one of ours.
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "pushsvc", "_application", "--report", str(theirs.fileno())],
                    env=without_settings(dict(os.environ)) | {
                        SETTINGS_VARIABLE: str(settings),
                        LIFELINE_VARIABLE: f"{read} {self._settings.drain + _GRACE}",
                    },
                    stdin=subprocess.DEVNULL, pass_fds=(settings, read, theirs.fileno()), start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                raise StartupError(f"cannot start the push server: {error.strerror}") from None
            finally:
                os.close(settings)
                os.close(read)
            theirs.close()
            said = _reported(mine)
        if "address" not in said:
            self._end_lifeline()
            raise StartupError(said.get("error") or "the push server did not start; its output says why")
        parts = urlsplit(said["address"])
        return parts.hostname or "", parts.port or 0


def _connected(host: str, port: int, timeout: float) -> HTTPConnection:
    connection = HTTPConnection(host, port, timeout=timeout)
    try:
        connection.connect()
    except OSError as error:
        connection.close()
        raise ServerUnavailable(f"cannot connect to {host}:{port}: {error}") from None
    return connection


def _reported(sock: socket.socket) -> dict[str, str]:
    """Return the line that a starting server writes; {} if it ends before, or takes too long."""
    sock.settimeout(_START)
    data = b""
    try:
        while not data.endswith(b"\n") and (piece := sock.recv(65_536)):
            data += piece
    except OSError:
        return {}
    return json.loads(data) if data else {}


_servers: dict[str, Server] = {}
_all = threading.Lock()


def server_of(settings: Settings) -> PushServer:
    """Return the server with these settings, which all applications of this process share."""
    if (in_front := served()) is not None:
        return ServerInFront(in_front)
    with _all:
        return _servers.setdefault(settings.encode(), Server(settings))


def _stop_all() -> None:
    for server in list(_servers.values()):
        server.stop()


def _after_fork() -> None:
    global _all
    _all = threading.Lock()
    for server in _servers.values():
        server.after_fork()


atexit.register(_stop_all)
os.register_at_fork(after_in_child=_after_fork)
