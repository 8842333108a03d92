"""The client of one server: publish events and progress, watch events and statistics."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pushsvc.client.batches import (
    ATTRIBUTES,
    MAX_EVENTS,
    BodyLimits,
    Events,
    Missing,
    Table,
    add_receipts,
    batches,
    plain,
)
from pushsvc.client.credentials import Credentials, Token
from pushsvc.client.history import History
from pushsvc.client.progress import Progress
from pushsvc.client.session import JSON, ClientError, Parameter, Session
from pushsvc.client.statistics import Series, Statistics
from pushsvc.client.tables import to_table
from pushsvc.sse import Decoder, Message

if TYPE_CHECKING:
    from pandas import DataFrame

_RECONNECT = 2.0  # seconds before a reconnection, unless the server sets another delay
_ROUTINE = ("", "pushsvc", "heartbeat")  # comments of a stream that goes on; any other is the reason why it ends

OnOutage = Callable[[str | None], None]


class Client:
    """Talks to the server at ``url``. Many threads or greenlets may share a client, which keeps connections alive.

    ``token`` is a token or API key to present, or a function that returns one, which is called again when the server
    refuses the last one: tokens expire. ``timeout`` in seconds limits each step of a request. A request that failed
    for a temporary reason is repeated for ``patience`` seconds. ``on_outage`` is called with the reason when a stream
    has to wait for its server, once per outage, and with None when the stream continues.
    """

    def __init__(
        self, url: str, *, token: Token | None = None, timeout: float = 10.0, patience: float = 10.0,
        on_outage: OnOutage | None = None,
    ) -> None:  # fmt: skip
        self.url = url
        self._on_outage = on_outage or (lambda _: None)
        self._session = Session(url, timeout, patience, Credentials(token))

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
        events: Events | bytes,
        content_type: str = JSON,
        *,
        repeatable: bool | None = None,
        missing: Missing = "error",
        batch_size: int = MAX_EVENTS,
        **query: Parameter,
    ) -> dict[str, Any]:
        """Publish events and return the receipt; raise ClientError.

        ``events`` are a mapping, mappings from any iterable, a pandas DataFrame, or a body of ``content_type``. Values
        may be numpy scalars and datetimes with a zone; those of pandas and numpy without a zone are UTC. ``query``
        holds parameters of the call, such as ``on_error``, or the columns ``key`` and ``time`` of CSV and DataFrames.

        NaN, NaT and NA raise InvalidValue, a ValueError that names the row; ``missing="absent"`` leaves them out.

        A request has at most ``batch_size`` events and 8 MB, and all or none of its events are stored. More events take
        several requests. The receipt is their sum; an error has as ``receipt`` the sum of those before it.

        A failed request is repeated only if that cannot store an event twice: if the server did not store anything,
        or if all events have ids. For a body, ``repeatable=True`` promises that they have.
        """
        if isinstance(events, bytes):
            path = self._session.path(topic, "events", query)
            return self._post(path, events, content_type, repeatable=bool(repeatable))
        if missing not in ("error", "absent") or batch_size < 1:
            raise ValueError(f"missing={missing!r} must be 'error' or 'absent', batch_size={batch_size!r} at least 1")
        table = isinstance(events, Table)
        columns = {name: str(query.pop(name)) for name in ATTRIBUTES if table and name in query}
        path = self._session.path(topic, "events", query)
        receipt: dict[str, Any] | None = None
        try:
            for batch in batches(events, columns, missing, BodyLimits(batch_size)):
                safe = batch.all_have_ids if repeatable is None else repeatable
                one = self._post(path, batch.body, JSON, repeatable=safe)
                receipt = add_receipts(receipt, one, batch.first_row)
        except ClientError as error:
            error.receipt = receipt
            raise
        return receipt or {}

    def _post(self, path: str, body: bytes, content_type: str, *, repeatable: bool) -> dict[str, Any]:
        return self._session.retry(lambda: self._session.post(path, body, content_type), repeatable=repeatable)

    def correct(self, topic: str, event: str | int, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Change members of a stored event, None removes one; return the answer. Raise ClientError.

        ``event`` is the id of an event, of several the newest, or an offset. ``id`` cannot change.
        """
        body = json.dumps(changes, default=plain, allow_nan=False).encode()
        return self._correct("PATCH", topic, event, body)

    def delete_event(self, topic: str, event: str | int) -> dict[str, Any]:
        """Delete a stored event, by its id or offset; return the answer. Raise ClientError."""
        return self._correct("DELETE", topic, event, None)

    def _correct(self, method: str, topic: str, event: str | int, body: bytes | None) -> dict[str, Any]:
        name = f"${event}" if isinstance(event, int) else quote(event, safe="")
        path = self._session.path(topic, f"events/{name}", {})
        # Done twice it changes nothing more.
        return self._session.retry(lambda: self._session.correct(method, path, body), repeatable=True)

    def events(self, topic: str, *, last_id: str = "", **query: Parameter) -> Iterator[Message]:
        """Yield a topic's events forever: new ones, or all after ``last_id`` (``earliest``: from the first).

        The client replaces a lost connection and resumes after the last message; a ``reset`` message reports that
        the server could not resume there. Raise ClientError when the server refuses the stream, or when it cannot
        be reached within the client's patience at first.
        """
        return self._watch(self._session.path(topic, "events", query), last_id, query)

    def stats(self, topic: str, *, last_id: str = "", **query: Parameter) -> Statistics:
        """Yield a topic's statistics forever: a ``snapshot``, then each ``update``; otherwise as ``events``.

        ``query`` holds parameters of the call, such as ``window``, ``key`` and ``field``. ``df()`` returns instead the
        present statistics as a pandas DataFrame.
        """
        path = self._session.path(topic, "stats", query)
        return Statistics(self._watch(path, last_id, query), lambda: self._read(path))

    def series(self, topic: str, **query: Parameter) -> Series:
        """Return statistics of one row over time, as far back as the log reaches, to iterate over, or for ``df()``.

        ``query`` holds parameters of the call, such as ``window``, ``key``, ``field``, ``stat`` ("mean,count"),
        ``since``, ``until``, ``step`` and ``fill``.
        """
        path = self._session.path(topic, "stats/series", query)
        return Series(lambda: self._read(path))

    def latest(self, topic: str, *, last_id: str = "", **query: Parameter) -> Iterator[Message]:
        """Yield the newest event of each key forever: a ``snapshot``, then each ``update`` with the changed events and
        the keys that are ``gone``; otherwise as ``events``. ``query`` may hold a ``key``, or a list of them."""
        return self._watch(self._session.path(topic, "latest", query), last_id, query)

    def progress(
        self, topic: str, total: float | None = None, *, key: str = "progress", every: float = 0.5, **fields: Any
    ) -> Progress:
        """Return what publishes the progress of a job to a topic such as ``job.42``, at most every ``every`` seconds.

        ``with client.progress("job.42", total=n) as progress:`` and ``progress.update()`` for each step. An event has
        ``done``, ``total``, ``rate`` (a second), ``elapsed`` and ``remaining`` (seconds), ``state`` (``running``,
        ``done`` or ``failed``) and the ``fields``. A job with several bars gives each a ``key``.
        """
        outage = _Outage(self._on_outage)
        return Progress(partial(self.publish, topic), total, key=key, every=every, fields=fields, on_outage=outage.note)

    def table(self, topic: str, **query: Parameter) -> DataFrame:
        """Return the statistics of a window now, as a pandas DataFrame with a row per key and field.

        ``query`` holds parameters of the call, such as ``window``, ``top`` and ``at_least``. With ``window="*"`` the
        first column is the window. Otherwise ``attrs`` has the other members of the frame: ``from``, ``to``,
        ``offset`` and more. Raise ClientError.
        """
        return to_table(self._read(self._session.path(topic, "stats", query)))

    def topic(self, topic: str) -> dict[str, Any]:
        """Return the metadata of a topic: whether it ``exists``, ``first_offset``, ``last_offset``, rates and more.

        Raise ClientError.
        """
        return self._read(self._session.topic_path(topic))

    def _read(self, path: str) -> dict[str, Any]:
        return self._session.retry(lambda: self._session.get(path), repeatable=True)

    def history(self, topic: str, **query: Parameter) -> History:
        """Return the events that a topic has now, to iterate over, or for ``df()``.

        ``query`` selects as in the history of the server: ``key``, ``type``, ``since``, ``until``, ``where``, which may
        be a list, and the fields of the topic's index.
        """
        return History(lambda: self.export(topic, "ndjson", **query))

    def export(self, topic: str, format: str, **query: Parameter) -> Iterator[bytes]:
        """Yield the events that a topic has now in pieces of a document, ``ndjson`` or ``csv``; raise ClientError, also
        after some pieces if the answer is cut. ``query`` is that of ``history``."""
        path = self._session.path(topic, f"events.{quote(format, safe='')}", {**query, "limit": "all"})
        connection, response = self._session.retry(lambda: self._session.open(path), repeatable=True)
        with closing(connection):
            yield from self._session.pieces(response)

    def stream(
        self, *, events: Sequence[str] = (), stats: Sequence[str] = (), last_id: str = "", **query: Parameter
    ) -> Iterator[Message]:
        """Yield the events and the statistics of several topics or patterns, such as ``orders.>``, as ``events``."""
        return self._watch(self._session.stream_path({"events": events, "stats": stats, **query}), last_id, query)

    def _watch(self, path: str, last_id: str, query: Mapping[str, Parameter]) -> Generator[Message]:
        """Yield the messages of a stream forever. Heartbeats move the cursor, and are yielded only if asked for."""
        with_heartbeats = query.get("heartbeat") == "event"
        return _watch(self._session, path, last_id, _Outage(self._on_outage), with_heartbeats=with_heartbeats)


class _Outage:
    """Reports the beginning of an outage of a stream with its reason, and its end with None, each once."""

    def __init__(self, report: OnOutage) -> None:
        self._report = report
        self._lasts = False

    def note(self, reason: str | None) -> None:
        if self._lasts != (reason is not None):
            self._lasts = reason is not None
            self._report(reason)


def _watch(session: Session, path: str, last_id: str, outage: _Outage, *, with_heartbeats: bool) -> Generator[Message]:
    """Yield the messages of a stream forever; ``Client.events`` describes resuming and errors."""
    decoder = Decoder(last_id)
    connection, response = session.retry(lambda: _open(session, path, decoder, outage), repeatable=True)
    while True:
        try:
            for message in _messages(response, decoder, outage):
                if with_heartbeats or message.event != "heartbeat":
                    yield message
        finally:
            connection.close()
        if decoder.comment not in _ROUTINE:
            outage.note(f"{session.url} ended the stream: {decoder.comment}")
        retry, decoder = decoder.retry, Decoder(decoder.last_id)  # a new one drops the incomplete message
        decoder.retry = retry
        connection, response = _reconnect(session, path, decoder, outage)


def _open(session: Session, path: str, decoder: Decoder, outage: _Outage) -> tuple[HTTPConnection, HTTPResponse]:
    try:
        return session.open_stream(path, decoder.last_id)
    except ClientError as error:
        if error.temporary:
            outage.note(error.detail)
        raise


def _reconnect(session: Session, path: str, decoder: Decoder, outage: _Outage) -> tuple[HTTPConnection, HTTPResponse]:
    while True:
        wait = _RECONNECT if decoder.retry is None else decoder.retry / 1000
        time.sleep(wait * random.uniform(0.8, 1.2))
        try:
            return _open(session, path, decoder, outage)
        except ClientError as error:
            if not error.temporary:
                raise


def _messages(response: HTTPResponse, decoder: Decoder, outage: _Outage) -> Iterator[Message]:
    while True:
        try:
            data = response.read1(65_536)
        except (OSError, HTTPException):
            return
        if not data:
            return
        messages = list(decoder.feed(data))
        if decoder.comment in _ROUTINE:  # else the server answers, but cannot serve the stream yet
            outage.note(None)
        yield from messages
