"""The client of one server: publish events and progress, watch events and statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from pushsvc_client.batches import MAX_EVENTS, Events, Missing
from pushsvc_client.blocking import BlockingNetwork, iterate, run
from pushsvc_client.calls import Calls, Handler, Handlers
from pushsvc_client.credentials import Token
from pushsvc_client.following import OnOutage
from pushsvc_client.results import History, Messages, Series, Stream, Watch
from pushsvc_client.session import JSON, Parameter
from pushsvc_client.sse import Message
from pushsvc_client.state import States
from pushsvc_client.tables import latest_table, statistics_table, to_table

if TYPE_CHECKING:
    from ssl import SSLContext

    from pandas import DataFrame

    from pushsvc_client.buffers import Buffer
    from pushsvc_client.progress import Progress


class Client:
    """Talks to the server at ``url``. Many threads or greenlets may share a client, which keeps connections alive.

    ``token`` is a token or API key to present, or a function that returns one, which is called again when the server
    refuses the last one: tokens expire. ``timeout`` in seconds limits each step of a request. A request that failed
    for a temporary reason is repeated for ``patience`` seconds. ``on_outage`` is called with the reason when a stream
    has to wait for its server, once per outage, and with None when the stream continues. ``tls`` replaces the default
    context of ``https``, for certificates of your own.
    """

    def __init__(
        self, url: str, *, token: Token | None = None, timeout: float = 10.0, patience: float = 10.0,
        on_outage: OnOutage | None = None, tls: SSLContext | None = None,
    ) -> None:  # fmt: skip
        self.url = url
        self._calls = Calls(
            url, BlockingNetwork(), token=token, timeout=timeout, patience=patience, on_outage=on_outage, tls=tls
        )
        self._session = self._calls.session
        self._handlers = Handlers()

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
        ids: bool = False,
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
        or if all events have ids. With ``ids`` those without one get one. For a body, ``repeatable=True`` promises that
        they have.
        """
        return run(
            self._calls.publish(
                topic, events, content_type, repeatable=repeatable, missing=missing, batch_size=batch_size, ids=ids,
                query=query,
            )
        )  # fmt: skip

    def buffer(self, *, size: int = 10_000, missing: Missing = "error") -> Buffer:
        """Return a buffer for single events, which are published together, in the background and with ids.

        ``with client.buffer() as buffer:`` and ``buffer.publish("orders", {"key": "u1"})``, which waits only if
        ``size`` events wait already. Events of a topic stay in order.
        """
        from pushsvc_client.buffers import Buffer

        return Buffer(partial(self.publish, repeatable=True), size=size, missing=missing)

    def correct(self, topic: str, event: str | int, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Change members of a stored event, None removes one; return the answer. Raise ClientError.

        ``event`` is the id of an event, of several the newest, or an offset. ``id`` cannot change.
        """
        return run(self._calls.correct(topic, event, changes))

    def delete_event(self, topic: str, event: str | int, *, erase: bool = False) -> dict[str, Any]:
        """Delete a stored event, by its id or offset; return the answer. Raise ClientError.

        ``erase`` removes its former forms, too, also of an event that was deleted before.
        """
        return run(self._calls.delete_event(topic, event, erase=erase))

    def event(self, topic: str, event: str | int) -> dict[str, Any]:
        """Return a stored event, by its id or offset, and what was done to it; raise ClientError."""
        return run(self._calls.event(topic, event))

    def events(self, topic: str, *, last_id: str = "", **query: Parameter) -> Stream[Message]:
        """Yield a topic's events forever: new ones, or all after ``last_id`` (``earliest``: from the first).

        The client replaces a lost connection and resumes after the last message; a ``reset`` message reports that
        the server could not resume there. Raise ClientError when the server refuses the stream, or when it cannot
        be reached within the client's patience at first.
        """
        return self._follow(self._session.path(topic, "events", query), last_id, query)

    def stats(self, topic: str, *, last_id: str = "", **query: Parameter) -> Messages:
        """Yield a topic's statistics forever: a ``snapshot``, then each ``update``; otherwise as ``events``.

        ``query`` holds parameters of the call, such as ``window``, ``key`` and ``field``. ``df()`` returns instead the
        present statistics as a pandas DataFrame.
        """
        path = self._session.path(topic, "stats", query)
        return Messages(iterate(self._calls.follow(path, last_id, query)), partial(self._read, path), statistics_table)

    def series(self, topic: str, **query: Parameter) -> Series:
        """Return statistics of one row over time, as far back as the log reaches, to iterate over, or for ``df()``.

        ``query`` holds parameters of the call, such as ``window``, ``key``, ``field``, ``stat`` ("mean,count"),
        ``since``, ``until``, ``step`` and ``fill``.
        """
        return Series(partial(self._read, self._session.path(topic, "stats/series", query)))

    def latest(self, topic: str, *, last_id: str = "", **query: Parameter) -> Messages:
        """Yield the newest event of each key forever: a ``snapshot``, then each ``update`` with the changed events and
        the keys that are ``gone``; otherwise as ``events``. ``query`` may hold a ``key``, or a list of them. ``df()``
        returns instead the newest events as a pandas DataFrame."""
        path = self._session.path(topic, "latest", query)
        return Messages(iterate(self._calls.follow(path, last_id, query)), partial(self._read, path), latest_table)

    def progress(
        self, topic: str, total: float | None = None, *, key: str = "progress", every: float = 0.5, **fields: Any
    ) -> Progress:
        """Return what publishes the progress of a job to a topic such as ``job.42``, at most every ``every`` seconds.

        ``with client.progress("job.42", total=n) as progress:`` and ``progress.update()`` for each step. An event has
        ``done``, ``total``, ``rate`` (a second), ``elapsed`` and ``remaining`` (seconds), ``state`` (``running``,
        ``done`` or ``failed``) and the ``fields``. A job with several bars gives each a ``key``.
        """
        from pushsvc_client.progress import Progress

        note = self._calls.outage().note
        return Progress(partial(self.publish, topic), total, key=key, every=every, fields=fields, on_outage=note)

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

    def topics(self, **query: Parameter) -> list[dict[str, Any]]:
        """Return the metadata of all topics by name, or of those that ``search`` and ``limit`` select. Raise
        ClientError."""
        topics: list[dict[str, Any]] = self._read(self._session.topics_path(query))["topics"]
        return topics

    def _read(self, path: str) -> dict[str, Any]:
        return run(self._calls.read(path))

    def history(self, topic: str, **query: Parameter) -> History:
        """Return the events that a topic has now, to iterate over, or for ``df()``.

        ``query`` selects as in the history of the server: ``key``, ``type``, ``since``, ``until``, ``where``, which may
        be a list, and the fields of the topic's index.
        """
        return History(lambda: iterate(self._calls.history(topic, query)))

    def export(self, topic: str, format: str, **query: Parameter) -> Iterator[bytes]:
        """Yield the events that a topic has now in pieces of a document, ``ndjson`` or ``csv``; raise ClientError, also
        after some pieces if the answer is cut. ``query`` is that of ``history``."""
        return iterate(self._calls.export(topic, format, query))

    def stream(
        self, *, events: Sequence[str] = (), stats: Sequence[str] = (), subs: Sequence[str] = (), last_id: str = "",
        **query: Parameter,
    ) -> Stream[Message]:  # fmt: skip
        """Yield the events and the statistics of several topics or patterns, such as ``orders.>``, as ``events``.

        ``subs`` are subscriptions with parameters of their own instead; ``watch`` decodes them and keeps their state.
        """
        path = self._session.stream_path({"sub": subs, "events": events, "stats": stats, **query})
        return self._follow(path, last_id, query)

    def _follow(self, path: str, last_id: str, query: Mapping[str, Parameter]) -> Stream[Message]:
        return Stream(iterate(self._calls.follow(path, last_id, query)))

    def watch(self, *subscriptions: str, last_id: str = "") -> Watch:
        """Yield the changes of up to 64 subscriptions on one stream forever, with states that equal the server's.

        A subscription is ``events/``, ``stats/`` or ``latest/`` with a topic and its parameters, such as
        ``"stats/flights?window=1m&top=5"``; the first two also take a pattern. ``subscription`` writes one::

            with client.watch("latest/job.42", subscription("events", "orders", type="created")) as watch:
                for change in watch:
                    print(change.name, change.data, list(change.state))

        The client resumes as with ``events``. Raise ClientError.
        """
        states = States(subscriptions)
        return Watch(iterate(self._calls.changes(states, last_id)), states)

    def on(self, topic: str, **query: Parameter) -> Callable[[Handler], Handler]:
        """Return a decorator of functions that ``run`` calls with each event of a topic or pattern.

        ``query`` selects events: ``type``, ``key``, ``where``; of one topic also the fields of its index.
        """
        return self._handlers.on(topic, query)

    def run(self, *, last_id: str = "") -> None:
        """Follow what the functions of ``on`` want, and call them, until one raises. Raise ClientError."""
        with self.watch(*self._handlers, last_id=last_id) as watch:
            for change in watch:
                for handle in self._handlers.of(change):
                    handle(change.data)
