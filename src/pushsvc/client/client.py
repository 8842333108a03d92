"""The client of one server: publish events, watch events and statistics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pushsvc.client.publish import publish
from pushsvc.client.session import JSON, Parameter, Session
from pushsvc.client.watch import watch
from pushsvc.sse import Message


class Client:
    """Talks to the server at ``url``. Many threads or greenlets may share a client, which keeps connections alive.

    ``timeout`` in seconds limits each step of a request. A request that failed for a temporary reason is repeated
    for ``patience`` seconds.
    """

    def __init__(self, url: str, *, timeout: float = 10.0, patience: float = 10.0) -> None:
        self.url = url
        self._session = Session(url, timeout, patience)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the idle connections; a stream is closed with its iterator."""
        self._session.close()

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

        ``events`` are mappings (a ``time`` may be a datetime with a zone), or a body of ``content_type``. ``query``
        holds parameters of the call, such as ``on_error``, or the CSV columns ``key`` and ``time``.

        A failed request is repeated only if that cannot store an event twice: if the server did not store anything,
        or if all events have ids. For a body, ``repeatable=True`` promises that they have.
        """
        return publish(self._session, self._session.path(topic, "events", query), events, content_type, repeatable)

    def events(self, topic: str, *, last_id: str = "", **query: Parameter) -> Iterator[Message]:
        """Yield a topic's events forever: new ones, or all after ``last_id`` (``earliest``: from the first).

        The client replaces a lost connection and resumes after the last message; a ``reset`` message reports that
        the server could not resume there. Raise ClientError when the server refuses the stream, or when it cannot
        be reached within the client's patience at first.
        """
        return watch(self._session, self._session.path(topic, "events", query), last_id)

    def stats(self, topic: str, *, last_id: str = "", **query: Parameter) -> Iterator[Message]:
        """Yield a topic's statistics forever: a ``snapshot``, then each ``update``; otherwise as ``events``.

        ``query`` holds parameters of the call, such as ``window``, ``key`` and ``field``.
        """
        return watch(self._session, self._session.path(topic, "stats", query), last_id)
