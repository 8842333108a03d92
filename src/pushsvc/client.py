"""The Python client: publish, and follow streams. Plain blocking sockets, so threads and gevent alike may use it."""

from __future__ import annotations

import http.client
import json
import select
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import orjson

from pushsvc.sse import MEDIA_TYPE, Decoder, Message

TIMEOUT = 30.0
"""Seconds of silence after which a connection counts as lost; a stream's heartbeats come more often."""

ATTEMPTS = 5
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
_TEMPORARY = frozenset({429, 502, 503, 504})


class ClientError(Exception):
    """A request failed. ``status`` is None when no answer came; ``problem`` the server's own words (RFC 9457).

    ``temporary`` tells whether the same request may succeed later; ``sent`` whether the server may have acted on it.
    """

    def __init__(self, detail: str, *, status: int | None = None, problem: Any = None, sent: bool = False) -> None:
        super().__init__(detail)
        self.status = status
        self.problem = problem
        self.sent = sent

    @property
    def temporary(self) -> bool:
        return self.status is None or self.status in _TEMPORARY


@dataclass
class Client:
    """Speaks to one server. Not to be shared between threads; a stream uses a connection of its own.

    ``attempts`` bounds how often a publish is tried. What may have been stored is sent again only when every event
    has an id, for then the server counts it once.
    """

    url: str
    attempts: int = ATTEMPTS
    timeout: float = TIMEOUT
    _connection: http.client.HTTPConnection | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ClientError(f"{self.url!r} is not an http:// or https:// address")
        self._secure, self._host, self._port = parts.scheme == "https", parts.hostname, parts.port
        self._base = parts.path.rstrip("/")

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def publish(
        self,
        topic: str,
        events: Iterable[Mapping[str, Any]] | bytes,
        content_type: str = "application/x-ndjson",
        **parameters: str,
    ) -> dict[str, Any]:
        """Publish events, or a body as it is; return the receipt. Raise ClientError."""
        if isinstance(events, bytes):
            body, repeatable = events, False
        else:
            listed = list(events)
            body = b"\n".join(map(orjson.dumps, listed))
            content_type, repeatable = "application/x-ndjson", all(event.get("id") is not None for event in listed)
        path = self._path(topic, "events", parameters)
        pause = _FIRST_PAUSE
        for attempt in range(1, self.attempts + 1):
            try:
                receipt: dict[str, Any] = self._post(path, body, content_type)
                return receipt
            except ClientError as error:
                if not error.temporary or attempt == self.attempts or (error.sent and not repeatable):
                    raise
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
        raise AssertionError("at least one attempt is made")

    def stats(self, topic: str, **parameters: str) -> Iterator[Message]:
        """Yield the messages of a statistics stream, for ever: it resumes by itself."""
        return self._follow(self._path(topic, "stats", parameters))

    def events(self, topic: str, last_event_id: str = "", **parameters: str) -> Iterator[Message]:
        """Yield the events of a topic, from now on or after a cursor (``earliest``), for ever: it resumes by itself."""
        return self._follow(self._path(topic, "events", parameters), last_event_id)

    def _path(self, topic: str, resource: str, parameters: Mapping[str, str]) -> str:
        query = f"?{urlencode(parameters)}" if parameters else ""
        return f"{self._base}/v1/topics/{quote(topic, safe='')}/{resource}{query}"

    def _connect(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=self.timeout)
        try:
            connection.connect()
        except OSError as error:
            raise ClientError(f"no connection to {self.url}: {error}") from error
        return connection

    def _post(self, path: str, body: bytes, content_type: str) -> Any:
        if self._connection is not None and _has_ended(self._connection):
            self.close()
        connection = self._connection = self._connection or self._connect()
        try:
            connection.request("POST", path, body, {"Content-Type": content_type})
            response = connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise ClientError(f"no answer from {self.url}: {error or type(error).__name__}", sent=True) from error
        if response.will_close:
            self.close()
        if response.status >= 300:
            raise _refusal(response.status, text)
        return json.loads(text)

    def _follow(self, path: str, last_id: str = "") -> Iterator[Message]:
        decoder = Decoder(last_id)
        pause = _FIRST_PAUSE
        while True:
            with suppress(OSError, http.client.HTTPException):
                try:
                    for message in self._stream(path, decoder):
                        pause = _FIRST_PAUSE
                        yield message
                except ClientError as error:
                    if not error.temporary:
                        raise
            time.sleep(max(pause, (decoder.retry or 0) / 1000))
            pause = min(2 * pause, _LONGEST_PAUSE)
            # What a cut left unfinished must not become the head of the next message.
            decoder, kept = Decoder(decoder.last_id), decoder.retry
            decoder.retry = kept

    def _stream(self, path: str, decoder: Decoder) -> Iterator[Message]:
        connection = self._connect()
        try:
            headers = {"Accept": MEDIA_TYPE, **({"Last-Event-ID": decoder.last_id} if decoder.last_id else {})}
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            if response.status != 200:
                raise _refusal(response.status, response.read())
            while data := response.read1(65_536):
                yield from decoder.feed(data)
        finally:
            connection.close()


def _has_ended(connection: http.client.HTTPConnection) -> bool:
    """Tell whether the server closed an idle connection: an idle one has nothing to read but its end."""
    return connection.sock is None or bool(select.select([connection.sock], [], [], 0)[0])


def _refusal(status: int, text: bytes) -> ClientError:
    try:
        problem = json.loads(text)
        detail = str(problem["detail"] or problem["title"])
    except (ValueError, KeyError, TypeError):
        problem, detail = None, text[:200].decode("utf-8", "replace")
    # Only an unknown outcome may have been stored; every other refusal changed nothing.
    unknown = isinstance(problem, dict) and str(problem.get("type", "")).endswith("outcome-unknown")
    return ClientError(f"{status}: {detail}", status=status, problem=problem, sent=unknown)
