"""HTTP connections to one server: kept alive, shared between threads, and retries of failed requests."""

import json
import random
import re
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from pushsvc import __version__
from pushsvc.client.credentials import Credentials
from pushsvc.errors import PushError
from pushsvc.sse import MEDIA_TYPE

JSON = "application/json"

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0  # seconds between two attempts: the pause doubles up to the longest
_PIECE = 65_536  # bytes that are read at a time
_SILENCE = 45.0  # seconds without a byte after which a stream is lost: three heartbeats
_TEMPORARY = frozenset({429, 502, 503, 504})  # statuses after which the same request may succeed later
_NOTHING_STORED = frozenset(
    f"urn:pushsvc:problem:{slug}" for slug in ("broker-unavailable", "broker-full", "overloaded")
)
"""Problems that promise that no event was stored: the request can be repeated even without event ids."""

T = TypeVar("T")
Parameter = str | int | Sequence[str]


class ClientError(PushError):
    """The server refused the request, or the client could not reach it.

    ``reply`` is the HTTP status (None: no answer), ``problem`` the problem document. If ``temporary``, the same
    request may succeed later. If ``unknown``, the events may have been stored. ``retry_after`` is in seconds.
    ``receipt`` sums up the requests of the same call that succeeded before (None: there were none).
    """

    slug, title = "client", "The request failed"

    def __init__(
        self, detail: str, *, reply: int | None = None, problem: Mapping[str, Any] | None = None,
        temporary: bool = False, unknown: bool = False, retry_after: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(detail)
        self.reply = reply
        self.problem = problem or {}
        self.temporary = temporary
        self.unknown = unknown
        self.retry_after = retry_after
        self.receipt: dict[str, Any] | None = None


class Session:
    """Connections to the server at ``url``; many threads or greenlets may use one session.

    ``timeout`` in seconds limits each step of a request. ``retry`` repeats failed attempts for ``patience`` seconds.
    """

    def __init__(self, url: str, timeout: float, patience: float, credentials: Credentials) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            shown = re.sub(".*@", "", url, flags=re.DOTALL)
            raise ClientError(f"{shown!r} is not the address of a server, such as http://127.0.0.1:8000")
        # For messages. A user and password before an @ are not sent, and not shown.
        self.url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        self._class = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._host, self._port = parts.hostname, parts.port
        self._base = parts.path.rstrip("/")
        self._timeout = timeout
        self._patience = patience
        self._credentials = credentials
        self._idle: deque[HTTPConnection] = deque()

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()

    def path(self, topic: str, resource: str, query: Mapping[str, Parameter]) -> str:
        """Return the path and query of a topic's resource."""
        return self._with_query(f"topics/{quote(topic, safe='')}/{resource}", query)

    def topic_path(self, topic: str) -> str:
        """Return the path of a topic."""
        return self._with_query(f"topics/{quote(topic, safe='')}", {})

    def stream_path(self, query: Mapping[str, Parameter]) -> str:
        """Return the path and query of a stream of several topics."""
        return self._with_query("stream", query)

    def _with_query(self, resource: str, query: Mapping[str, Parameter]) -> str:
        path = f"{self._base}/v1/{resource}"
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
        headers = {"Accept": JSON, "Content-Type": content_type}
        return self._authorized(headers, lambda headers: self._request("POST", path, body, headers))

    def correct(self, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        """Send a PATCH or DELETE request once and return the JSON object of the answer; raise ClientError."""
        headers = {"Accept": JSON} | ({} if body is None else {"Content-Type": "application/merge-patch+json"})
        return self._authorized(headers, lambda headers: self._request(method, path, body, headers))

    def get(self, path: str) -> dict[str, Any]:
        """Send a GET request once and return the JSON object of the answer; raise ClientError."""
        return self._authorized({"Accept": JSON}, lambda headers: self._request("GET", path, None, headers))

    def _authorized(self, headers: dict[str, str], send: Callable[[dict[str, str]], T]) -> T:
        """Return what ``send`` returns for the headers with those of every request. If the token is refused, nothing
        was stored: do it once more with another one, if there is one."""
        headers = headers | {"User-Agent": f"pushsvc/{__version__}"}
        token = self._credentials.current()
        try:
            return send(headers | _presenting(token))
        except ClientError as error:
            if error.reply != 401 or not self._credentials.renew(token):
                raise
        return send(headers | _presenting(self._credentials.current()))

    def _request(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> dict[str, Any]:
        connection = self._take()
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            answer = response.read()
        except (OSError, HTTPException) as error:
            connection.close()
            raise ClientError(
                f"{self.url}: the connection was lost before the answer came ({_reason(error)})"
                + ("; the events may have been stored" if body is not None else ""),
                temporary=True,
                unknown=True,
            ) from error
        except BaseException:
            connection.close()
            raise
        self._release(connection, response)
        if response.status >= 300:
            raise _error_of(response, answer)
        return _json_object(answer)

    def open_stream(self, path: str, last_id: str) -> tuple[HTTPConnection, HTTPResponse]:
        """Request an event stream on a connection of its own; return both when the answer begins. Raise ClientError."""
        headers = {"Accept": MEDIA_TYPE} | ({"Last-Event-ID": last_id} if last_id else {})
        connection, response = self._authorized(headers, lambda headers: self._open(path, headers))
        if (given := response.headers.get_content_type()) != MEDIA_TYPE:
            connection.close()
            raise ClientError(f"{self.url} answered {given}, not an event stream")
        if connection.sock is not None:
            connection.sock.settimeout(_SILENCE)
        return connection, response

    def open(self, path: str) -> tuple[HTTPConnection, HTTPResponse]:
        """Request a long answer on a connection of its own; return both when the answer begins. Raise ClientError."""
        return self._authorized({"Accept": "*/*"}, lambda headers: self._open(path, headers))

    def pieces(self, response: HTTPResponse) -> Iterator[bytes]:
        """Yield the body of an answer as it comes; raise ClientError if it is cut."""
        try:
            while piece := response.read1(_PIECE):
                yield piece
        except (OSError, HTTPException) as error:
            raise ClientError(f"{self.url}: the answer was cut ({_reason(error)})", temporary=True) from error

    def _open(self, path: str, headers: dict[str, str]) -> tuple[HTTPConnection, HTTPResponse]:
        connection = self._connect()
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            if response.status != 200:
                raise _error_of(response, response.read())
        except (OSError, HTTPException) as error:
            connection.close()
            raise ClientError(f"{self.url} did not answer: {_reason(error)}", temporary=True) from error
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
            raise ClientError(f"{self.url} cannot be reached: {_reason(error)}", temporary=True) from error
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


def _presenting(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}


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


def _error_of(response: HTTPResponse, body: bytes) -> ClientError:
    """Return the error that an answer with an error status stands for."""
    problem = _json_object(body) if response.headers.get_content_subtype().endswith("json") else {}
    detail = problem.get("detail") or problem.get("title") or response.reason
    return ClientError(
        f"{response.status} {detail}",
        reply=response.status,
        problem=problem,
        temporary=response.status in _TEMPORARY,
        unknown=response.status >= 500 and problem.get("type") not in _NOTHING_STORED,
        retry_after=_seconds(response.headers.get("Retry-After")),
    )


def _reason(error: Exception) -> str:
    """Return the text of an exception, or its type if it has no text."""
    return str(error) or type(error).__name__


def _json_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object in ``body``; {} if it holds none."""
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.isascii() and text.isdigit() else None
