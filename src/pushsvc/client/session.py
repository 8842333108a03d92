"""HTTP connections to one server: kept alive, shared between threads, and retries of failed requests."""

from __future__ import annotations

import random
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from pushsvc import __version__
from pushsvc.client.errors import ClientError, error_of, json_object, reason_of

JSON = "application/json"

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
"""Seconds between two attempts: the pause doubles up to the longest."""

T = TypeVar("T")
Parameter = str | int | Sequence[str]


class Session:
    """Connections to the server at ``url``; many threads or greenlets may use one session.

    ``timeout`` in seconds limits each step of a request. ``retry`` repeats failed attempts for ``patience`` seconds.
    """

    def __init__(self, url: str, timeout: float, patience: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ClientError(f"{url!r} is not the address of a server, such as http://127.0.0.1:8000")
        self.url = url
        self._class = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._host, self._port = parts.hostname, parts.port
        self._base = parts.path.rstrip("/")
        self._timeout = timeout
        self._patience = patience
        self._idle: deque[HTTPConnection] = deque()

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()

    def path(self, topic: str, resource: str, query: Mapping[str, Parameter]) -> str:
        """Return the path and query of a topic's resource."""
        path = f"{self._base}/v1/topics/{quote(topic, safe='')}/{resource}"
        return f"{path}?{urlencode(query, doseq=True)}" if query else path

    def retry(self, attempt: Callable[[], T], *, repeatable: bool) -> T:
        """Return what ``attempt`` returns. Repeat it after a temporary ClientError, for ``patience`` seconds.

        An attempt with an unknown outcome is repeated only if ``repeatable``.
        """
        deadline = time.monotonic() + self._patience
        pause = _FIRST_PAUSE
        while True:
            try:
                return attempt()
            except ClientError as error:
                wait = max(error.retry_after or 0.0, pause * random.uniform(0.5, 1.0))
                if not error.temporary or (error.unknown and not repeatable) or time.monotonic() + wait > deadline:
                    raise
            time.sleep(wait)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def post(self, path: str, body: bytes, content_type: str) -> dict[str, Any]:
        """Send a POST request once and return the JSON object of the answer; raise ClientError."""
        connection = self._take()
        try:
            connection.request("POST", path, body, _headers(JSON) | {"Content-Type": content_type})
            response = connection.getresponse()
            answer = response.read()
        except (OSError, HTTPException) as error:
            connection.close()
            raise ClientError(
                f"{self.url}: the connection was lost before the answer came ({reason_of(error)}); "
                "the events may have been stored",
                temporary=True,
                unknown=True,
            ) from error
        except BaseException:
            connection.close()
            raise
        self._release(connection, response)
        if response.status >= 300:
            raise error_of(response, answer)
        return json_object(answer)

    def open_stream(
        self, path: str, media_type: str, headers: Mapping[str, str], silence: float
    ) -> tuple[HTTPConnection, HTTPResponse]:
        """Send a GET request on a connection of its own and return both when the answer begins; raise ClientError.

        A read of the answer fails after ``silence`` seconds without a byte.
        """
        connection = self._connect()
        try:
            connection.request("GET", path, headers={**_headers(media_type), **headers})
            response = connection.getresponse()
            if response.status != 200:
                raise error_of(response, response.read())
            if (given := response.headers.get_content_type()) != media_type:
                raise ClientError(f"{self.url} answered {given}, not {media_type}")
            if connection.sock is not None:
                connection.sock.settimeout(silence)
        except (OSError, HTTPException) as error:
            connection.close()
            raise ClientError(f"{self.url} did not answer: {reason_of(error)}", temporary=True) from error
        except BaseException:
            connection.close()
            raise
        return connection, response

    def _connect(self) -> HTTPConnection:
        connection = self._class(self._host, self._port, timeout=self._timeout)
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            raise ClientError(f"{self.url} cannot be reached: {reason_of(error)}", temporary=True) from error
        return connection

    def _take(self) -> HTTPConnection:
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread took the last one
                break
            if _is_open(connection, self._timeout):
                return connection
            connection.close()
        return self._connect()

    def _release(self, connection: HTTPConnection, response: HTTPResponse) -> None:
        if response.will_close or connection.sock is None:
            connection.close()
        else:
            self._idle.append(connection)


def _headers(accept: str) -> dict[str, str]:
    return {"Accept": accept, "User-Agent": f"pushsvc/{__version__}"}


def _is_open(connection: HTTPConnection, timeout: float) -> bool:
    """Return whether the server has kept an idle connection open. Anything readable on it means its end."""
    sock = connection.sock
    if sock is None:
        return False
    try:
        sock.settimeout(0)
        if isinstance(sock, ssl.SSLSocket):
            sock.recv(1)  # TLS cannot peek; an idle connection has no data to lose
        else:
            sock.recv(1, socket.MSG_PEEK)
    except (BlockingIOError, TimeoutError, ssl.SSLWantReadError):
        sock.settimeout(timeout)
        return True
    except OSError:
        return False
    return False
