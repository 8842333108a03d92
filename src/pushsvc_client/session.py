"""Requests to one server over connections that are kept alive, and their retries."""

from __future__ import annotations

import json
import os
import random
import re
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from pushsvc_client import __version__
from pushsvc_client.credentials import Credentials
from pushsvc_client.errors import ClientError
from pushsvc_client.http1 import Answer, Exchange, encode_request
from pushsvc_client.network import Address, Connection, Network
from pushsvc_client.sse import MEDIA_TYPE

if TYPE_CHECKING:
    from ssl import SSLContext

JSON = "application/json"

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0  # seconds between two attempts: the pause doubles up to the longest
_TEMPORARY = frozenset({429, 502, 503, 504})  # statuses after which the same request may succeed later
_NOTHING_STORED = frozenset(
    f"urn:pushsvc:problem:{slug}" for slug in ("broker-unavailable", "broker-full", "overloaded")
)
"""Problems that promise that no event was stored: the request can be repeated even without event ids."""

T = TypeVar("T")
Parameter = str | int | Sequence[str]


class Session:
    """Connections to the server at ``url`` over a network; threads, greenlets or tasks may share a session, and a
    process may fork.

    ``timeout`` in seconds limits each step of a request. ``retry`` repeats failed attempts for ``patience`` seconds.
    """

    def __init__(
        self, url: str, network: Network, credentials: Credentials, *, timeout: float, patience: float,
        tls: SSLContext | None,
    ) -> None:  # fmt: skip
        self._address, self._base = _address(url, tls)
        # For messages. A user and password before an @ are not sent, and not shown.
        parts = urlsplit(url)
        self.url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        self.network = network
        self._headers = {"Host": urlsplit(self.url).netloc, "Accept-Encoding": "identity"}
        self._headers["User-Agent"] = f"pushsvc/{__version__}"
        self._timeout = timeout
        self._patience = patience
        self._credentials = credentials
        self._idle: deque[Connection] = deque()
        self._process = os.getpid()  # to which the idle connections belong

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

    def topics_path(self, query: Mapping[str, Parameter]) -> str:
        """Return the path and query of the list of topics."""
        return self._with_query("topics", query)

    def stream_path(self, query: Mapping[str, Parameter]) -> str:
        """Return the path and query of a stream of several topics."""
        return self._with_query("stream", query)

    def _with_query(self, resource: str, query: Mapping[str, Parameter]) -> str:
        path = f"{self._base}/v1/{resource}"
        return f"{path}?{urlencode(query, doseq=True)}" if query else path

    async def retry(self, attempt: Callable[[], Awaitable[T]], *, repeatable: bool) -> T:
        """Return what ``attempt`` returns. Repeat it after a temporary ClientError, for ``patience`` seconds.

        An attempt with an unknown outcome is repeated only if ``repeatable``.
        """
        deadline = time.monotonic() + self._patience
        pause = _FIRST_PAUSE
        while True:
            try:
                return await attempt()
            except ClientError as error:
                wait = max(error.retry_after or 0.0, pause * random.uniform(0.5, 1.0))
                if not error.temporary or (error.unknown and not repeatable) or time.monotonic() + wait > deadline:
                    raise
            await self.network.sleep(wait)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def request(
        self, method: str, path: str, body: bytes | None = None, content_type: str = JSON
    ) -> dict[str, Any]:
        """Send a request once and return the JSON object of the answer; raise ClientError."""
        headers = {"Accept": JSON} | ({} if body is None else {"Content-Type": content_type})
        return await self._authorized(headers, lambda headers: self._request(method, path, body, headers))

    async def _authorized(self, headers: dict[str, str], send: Callable[[dict[str, str]], Awaitable[T]]) -> T:
        """Return what ``send`` returns for the headers with those of every request. If the token is refused, nothing
        was stored: do it once more with another one, if there is one."""
        headers = self._headers | headers
        token = await self._credentials.current()
        try:
            return await send(headers | _presenting(token))
        except ClientError as error:
            if error.reply != 401 or not await self._credentials.renew(token):
                raise
        return await send(headers | _presenting(await self._credentials.current()))

    async def _request(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> dict[str, Any]:
        request = encode_request(method, path, headers, body)
        async with self.network.place():
            exchange = Exchange(self._idle_connection() or await self._connect())
            try:
                await exchange.begin(request, self._timeout)
                answer = await exchange.read_all(self._timeout)
            except OSError as error:
                exchange.close()
                raise ClientError(
                    f"{self.url}: the connection was lost before the answer came ({_reason(error)})"
                    + ("; the events may have been stored" if body is not None else ""),
                    temporary=True,
                    unknown=True,
                ) from error
            except BaseException:
                exchange.close()
                raise
            if exchange.answer.reusable:
                self._idle.append(exchange.connection)
            else:
                exchange.close()
        if exchange.answer.status >= 300:
            raise _error_of(exchange.answer, answer)
        return _json_object(answer)

    async def open_stream(self, path: str, last_id: str) -> Exchange:
        """Request an event stream on a connection of its own; return it when the answer begins. Raise ClientError."""
        headers = {"Accept": MEDIA_TYPE} | ({"Last-Event-ID": last_id} if last_id else {})
        exchange = await self._authorized(headers, lambda headers: self._open(path, headers))
        if (given := _media_type(exchange.answer)) != MEDIA_TYPE:
            exchange.close()
            raise ClientError(f"{self.url} answered {given}, not an event stream")
        return exchange

    async def pieces(self, path: str) -> AsyncGenerator[bytes]:
        """Yield a long answer in pieces, on a connection of its own; raise ClientError, also if it is cut."""
        send = self._open
        exchange = await self.retry(
            lambda: self._authorized({"Accept": "*/*"}, lambda headers: send(path, headers)), repeatable=True
        )
        try:
            while piece := await exchange.read(self._timeout):
                yield piece
        except OSError as error:
            raise ClientError(f"{self.url}: the answer was cut ({_reason(error)})", temporary=True) from error
        finally:
            exchange.close()

    async def _open(self, path: str, headers: dict[str, str]) -> Exchange:
        request = encode_request("GET", path, headers, None)
        exchange = Exchange(await self._connect())
        try:
            await exchange.begin(request, self._timeout)
            if exchange.answer.status != 200:
                raise _error_of(exchange.answer, await exchange.read_all(self._timeout))
        except OSError as error:
            exchange.close()
            raise ClientError(f"{self.url} did not answer: {_reason(error)}", temporary=True) from error
        except BaseException:
            exchange.close()
            raise
        return exchange

    async def _connect(self) -> Connection:
        try:
            return await self.network.connect(self._address, self._timeout)
        except OSError as error:
            raise ClientError(f"{self.url} cannot be reached: {_reason(error)}", temporary=True) from error

    def _idle_connection(self) -> Connection | None:
        if self._process != os.getpid():
            # The connections are those of the parent, too: the answers of both would mix.
            self._process, self._idle = os.getpid(), deque()
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:  # there is none, or another thread took the last one
                return None
            if connection.is_idle():
                return connection
            connection.close()


def _address(url: str, tls: SSLContext | None) -> tuple[Address, str]:
    """Return where the server at ``url`` listens, and the path before its own; raise ClientError."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        shown = re.sub(".*@", "", url, flags=re.DOTALL)
        raise ClientError(f"{shown!r} is not the address of a server, such as http://127.0.0.1:8000")
    if parts.scheme == "http":
        tls = None
    elif tls is None:
        import ssl

        tls = ssl.create_default_context()
    return Address(parts.hostname, parts.port or (80 if tls is None else 443), tls), parts.path.rstrip("/")


def _presenting(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def _media_type(answer: Answer) -> str:
    return answer.headers.get("content-type", "").partition(";")[0].strip().lower()


def _error_of(answer: Answer, body: bytes) -> ClientError:
    """Return the error that an answer with an error status stands for."""
    problem = _json_object(body) if _media_type(answer).endswith("json") else {}
    detail = problem.get("detail") or problem.get("title") or answer.reason
    return ClientError(
        f"{answer.status} {detail}",
        reply=answer.status,
        problem=problem,
        temporary=answer.status in _TEMPORARY,
        unknown=answer.status >= 500 and problem.get("type") not in _NOTHING_STORED,
        retry_after=_seconds(answer.headers.get("retry-after")),
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
