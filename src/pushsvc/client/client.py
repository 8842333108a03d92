"""The Python client: publish events, watch events and statistics. Standard library sockets, threads or gevent alike."""

from __future__ import annotations

import json
import random
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from pushsvc import __version__, sse
from pushsvc.errors import PushError
from pushsvc.sse import Message

JSON = "application/json"

_PASSING = frozenset({429, 502, 503, 504})
"""Statuses that time can mend."""

_NOTHING_STORED = frozenset(
    f"urn:pushsvc:problem:{slug}" for slug in ("broker-unavailable", "broker-full", "overloaded")
)
"""Problems that promise that the events were not stored, so that they may be sent again even without ids."""

_SILENCE = 45.0
"""Seconds without a byte after which a stream is dead: three heartbeats."""

_RECONNECT = 2.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0

T = TypeVar("T")
Parameter = str | int | Sequence[str]


class ClientError(PushError):
    """The server refused, or could not be reached.

    ``reply`` is the status of the answer (None: there was none), ``problem`` its problem document. ``temporary``
    tells that the same request may succeed later, ``unknown`` that the events may have been stored all the same.
    """

    slug = "client"
    title = "The request failed"

    def __init__(
        self,
        detail: str,
        *,
        reply: int | None = None,
        problem: Mapping[str, Any] | None = None,
        temporary: bool = False,
        unknown: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.reply = reply
        self.problem = problem or {}
        self.temporary = temporary
        self.unknown = unknown
        self.retry_after = retry_after


class Client:
    """Speaks to the server at ``url``. Connections are kept alive and may be used from many threads or greenlets.

    ``timeout`` in seconds bounds every step of a request. What time can mend is tried again for ``patience`` seconds.
    """

    def __init__(self, url: str, *, timeout: float = 10.0, patience: float = 10.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ClientError(f"{url!r} is no address of a server, such as http://127.0.0.1:8000")
        self.url = url
        self._class = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._host, self._port = parts.hostname, parts.port
        self._base = parts.path.rstrip("/")
        self._timeout = timeout
        self._patience = patience
        self._idle: deque[HTTPConnection] = deque()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that are kept; streams end with their iterators."""
        while self._idle:
            self._idle.pop().close()

    def publish(
        self,
        topic: str,
        events: Iterable[Mapping[str, Any]] | bytes,
        content_type: str = JSON,
        *,
        repeatable: bool | None = None,
        **query: Parameter,
    ) -> dict[str, Any]:
        """Publish events and return the receipt; raise ClientError.

        ``events`` are objects (a ``time`` may be a datetime with a zone), or a body of ``content_type``. ``query``
        holds parameters of the call such as ``on_error`` or the CSV columns ``key``, ``time``. Once a request has been
        sent, it is sent again only when that cannot store an event twice: when the server says that it stored
        nothing, or when all events bear ids. For a body of bytes ``repeatable=True`` promises that.
        """
        if isinstance(events, bytes):
            body, all_have_ids = events, False
        else:
            batch = list(events)
            body, all_have_ids = _encode(batch), all(event.get("id") is not None for event in batch)
            content_type = JSON
        safe = all_have_ids if repeatable is None else repeatable
        path = self._path(topic, "events", query)
        return self._patiently(lambda: self._post(path, body, content_type), safe=safe)

    def events(self, topic: str, *, last_id: str = "", **query: Parameter) -> Iterator[Message]:
        """Yield a topic's events for ever, as they come or from the one after ``last_id`` (``earliest``: the first).

        A lost connection is replaced, and goes on after the last message: a ``reset`` message says where that
        was not possible. Raises ClientError when the first connection does not come about within the client's
        patience, or when the server refuses.
        """
        return self._stream(self._path(topic, "events", query), last_id)

    def stats(self, topic: str, *, last_id: str = "", **query: Parameter) -> Iterator[Message]:
        """Yield a topic's statistics for ever: a ``snapshot``, then each ``update``; otherwise as ``events``.

        ``query`` holds parameters of the call, such as ``window``, ``key`` and ``field``.
        """
        return self._stream(self._path(topic, "stats", query), last_id)

    def _path(self, topic: str, resource: str, query: Mapping[str, Parameter]) -> str:
        path = f"{self._base}/v1/topics/{quote(topic, safe='')}/{resource}"
        return f"{path}?{urlencode(query, doseq=True)}" if query else path

    def _patiently(self, attempt: Callable[[], T], *, safe: bool) -> T:
        """Repeat ``attempt`` while it fails for reasons that pass, and while repeating does no harm."""
        deadline = time.monotonic() + self._patience
        pause = _FIRST_PAUSE
        while True:
            try:
                return attempt()
            except ClientError as error:
                wait = max(error.retry_after or 0.0, pause * random.uniform(0.5, 1.0))
                if not error.temporary or (error.unknown and not safe) or time.monotonic() + wait > deadline:
                    raise
            time.sleep(wait)
            pause = min(pause * 2, _LONGEST_PAUSE)

    # Requests

    def _post(self, path: str, body: bytes, content_type: str) -> dict[str, Any]:
        connection = self._take()
        headers = {"Content-Type": content_type, "Accept": JSON, "User-Agent": f"pushsvc/{__version__}"}
        try:
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            answer = response.read()
        except (OSError, HTTPException) as error:
            connection.close()
            raise ClientError(
                f"{self.url}: the connection was lost before the answer came ({_reason(error)}); "
                "the events may have been stored",
                temporary=True,
                unknown=True,
            ) from error
        except BaseException:
            connection.close()
            raise
        self._keep(connection, response)
        if response.status >= 300:
            raise _refusal(response, answer)
        return _object(answer) or {}

    def _open(self, timeout: float) -> HTTPConnection:
        connection = self._class(self._host, self._port, timeout=timeout)
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
            except IndexError:  # another thread was faster
                break
            if _alive(connection, self._timeout):
                return connection
            connection.close()
        return self._open(self._timeout)

    def _keep(self, connection: HTTPConnection, response: HTTPResponse) -> None:
        if response.will_close or connection.sock is None:
            connection.close()
        else:
            self._idle.append(connection)

    # Streams

    def _stream(self, path: str, last_id: str) -> Iterator[Message]:
        decoder = sse.Decoder(last_id)
        connection, response = self._patiently(lambda: self._listen(path, decoder.last_id), safe=True)
        while True:
            try:
                yield from _messages(response, decoder)
            finally:
                connection.close()
            # What came of a message without its end is lost with its connection.
            decoder = _fresh(decoder)
            connection, response = self._listen_again(path, decoder)

    def _listen_again(self, path: str, decoder: sse.Decoder) -> tuple[HTTPConnection, HTTPResponse]:
        while True:
            wait = _RECONNECT if decoder.retry is None else decoder.retry / 1000
            time.sleep(wait * random.uniform(0.8, 1.2))
            try:
                return self._listen(path, decoder.last_id)
            except ClientError as error:
                if not error.temporary:
                    raise

    def _listen(self, path: str, last_id: str) -> tuple[HTTPConnection, HTTPResponse]:
        connection = self._open(self._timeout)
        try:
            headers = {"Accept": sse.MEDIA_TYPE, "User-Agent": f"pushsvc/{__version__}"}
            if last_id:
                headers["Last-Event-ID"] = last_id
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            if response.status != 200:
                raise _refusal(response, response.read())
            if response.headers.get_content_type() != sse.MEDIA_TYPE:
                raise ClientError(f"{self.url} answered {response.headers.get_content_type()}, not an event stream")
            if connection.sock is not None:
                connection.sock.settimeout(_SILENCE)
        except (OSError, HTTPException) as error:
            connection.close()
            raise ClientError(f"{self.url} did not answer: {_reason(error)}", temporary=True) from error
        except BaseException:
            connection.close()
            raise
        return connection, response


def _messages(response: HTTPResponse, decoder: sse.Decoder) -> Iterator[Message]:
    while True:
        try:
            data = response.read1(65_536)
        except (OSError, HTTPException):
            return
        if not data:
            return
        yield from decoder.feed(data)


def _fresh(decoder: sse.Decoder) -> sse.Decoder:
    successor = sse.Decoder(decoder.last_id)
    successor.retry = decoder.retry
    return successor


def _encode(events: list[Mapping[str, Any]]) -> bytes:
    try:
        return json.dumps(events, allow_nan=False, ensure_ascii=False, separators=(",", ":"), default=_foreign).encode()
    except (TypeError, ValueError) as error:
        raise ClientError(f"these events are no JSON: {error}") from error


def _foreign(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is no JSON")


def _alive(connection: HTTPConnection, timeout: float) -> bool:
    """Tell whether an idle connection is still open: the server has nothing to say on it but its end."""
    sock = connection.sock
    if sock is None:
        return False
    try:
        sock.settimeout(0)
        if isinstance(sock, ssl.SSLSocket):
            sock.recv(1)  # TLS cannot peek; there is nothing that could be lost
        else:
            sock.recv(1, socket.MSG_PEEK)
    except (BlockingIOError, TimeoutError, ssl.SSLWantReadError):
        sock.settimeout(timeout)
        return True
    except OSError:
        return False
    return False


def _refusal(response: HTTPResponse, answer: bytes) -> ClientError:
    problem = _object(answer) if response.headers.get_content_subtype().endswith("json") else None
    problem = problem or {}
    detail = problem.get("detail") or problem.get("title") or response.reason
    return ClientError(
        f"{response.status} {detail}",
        reply=response.status,
        problem=problem,
        temporary=response.status in _PASSING,
        unknown=response.status >= 500 and problem.get("type") not in _NOTHING_STORED,
        retry_after=_seconds(response.headers.get("Retry-After")),
    )


def _object(answer: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(answer)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.isascii() and text.isdigit() else None


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
