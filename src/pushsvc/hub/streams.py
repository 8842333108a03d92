"""One stream from its request to its end, over a socket that the hub takes over or as an iterable of bytes."""

from __future__ import annotations

import logging
import socket
import ssl
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from math import inf
from typing import Any, Self, TypeVar

import orjson

from pushsvc import sse
from pushsvc.auth.grants import Grants
from pushsvc.cursor import UNREADABLE, Position, UnreadableCursor, decode, name_of, split
from pushsvc.errors import BrokerUnavailable, PushError, TooManyRows, Unavailable, at_place
from pushsvc.hub.delivery.channel import Channel
from pushsvc.hub.delivery.chunked import frame
from pushsvc.hub.delivery.combined import Part
from pushsvc.hub.delivery.connection import Connection, IteratedConnection, SecureConnection
from pushsvc.hub.groups.group import ResumeReason
from pushsvc.hub.groups.listing import Describe, ListingQuery, Poll
from pushsvc.hub.hub import DRAINING, Hub
from pushsvc.hub.messages import OPENING, farewell, heartbeat
from pushsvc.hub.query import NOTHING_RESELECTED, LatestQuery, Query, Reselected

log = logging.getLogger(__name__)

C = TypeVar("C", bound=Connection)

EARLIEST = "earliest"

_OPENING = frame(OPENING)
_NO_POSITION = 2**63  # number of a chunk that never comes: a stream after it never has a position


class Stream(ABC):
    """The bytes for one subscriber. Call ``open`` before the response head is sent, then take over or iterate."""

    def __init__(self, hub: Hub) -> None:
        hub.start()  # raises under a server without gevent, before anything is made for the stream
        self.hub = hub
        self._connection: IteratedConnection | None = None
        self._grants: Grants | None = None

    @abstractmethod
    def open(self) -> None:
        """Wait until every notification arrives; raise what the broker raises."""

    @property
    @abstractmethod
    def channel(self) -> Channel:
        """Return the channel that ``open`` found."""

    @property
    @abstractmethod
    def factory(self) -> Callable[[str | None], Stream]:
        """Return a function that makes an equal stream from another cursor."""

    @property
    def first_bytes(self) -> int:
        """Return about how many bytes of rows an opened stream begins with."""
        return 0

    @property
    def beginning(self) -> str | None:
        """Return the cursor from which an opened stream starts; None if its first message tells."""
        return None

    @abstractmethod
    def start(self, connection: Connection) -> None:
        """Send the first bytes, and continue from where the stream starts."""

    def under(self, grants: Grants) -> Self:
        """Let the stream end with the grants of its request; return the stream."""
        if grants.subject or grants.expires != inf:  # nobody in particular has no end
            self._grants = grants
        return self

    def _check_draining(self) -> None:
        if self.hub.draining:
            raise BrokerUnavailable(DRAINING)

    def refusal(self, error: PushError) -> bytes:
        """Return a complete stream: the reason why it ends, and the time to come back."""
        # Redis's own words may contain addresses: they are for the log.
        reason = error.detail if isinstance(error, Unavailable) and error.detail_is_public else error.title
        return OPENING + farewell(DRAINING if self.hub.draining else reason)

    def take_over(self, sock: Any, on_close: Callable[[], None], *, chunked: bool) -> None:
        """Send the stream on a non-blocking socket from now on; ``on_close`` is called once the socket is closed.

        ``chunked`` as the head of the response says.
        """
        prepare(sock, self.hub.writer.limits.write_deadline)
        if isinstance(sock, ssl.SSLSocket):
            self._begin(lambda channel: SecureConnection(sock, channel, on_close, chunked=chunked))
        else:
            self._begin(lambda channel: Connection(sock.detach(), channel, on_close, chunked=chunked))

    def __iter__(self) -> Iterator[bytes]:
        connection = self._connection = self._begin(IteratedConnection)
        return iter(connection)

    def close(self) -> None:
        """End the stream: the server does not need the iterable any more."""
        if self._connection is not None:
            self._connection.close()

    def _begin(self, connect: Callable[[Channel], C]) -> C:
        problem: PushError | None = BrokerUnavailable(DRAINING) if self.hub.draining else None
        if problem is None and self.channel.closed:  # it had no streams, as the head took so long to be sent
            try:
                self.open()
            except PushError as error:
                problem = error
        channel = self.channel
        connection = connect(channel)
        self.hub.enter(channel, connection)
        try:
            connection.listen()
            if problem is None:
                problem = self._enter_session(connection)
            if problem is None:
                self.start(connection)
            else:
                connection.end(self.refusal(problem))
        except Exception:
            log.exception("a stream of %s failed to start", channel.name)
            connection.fail()
        return connection

    def _enter_session(self, connection: Connection) -> PushError | None:
        """Let the stream end with its grants; return the reason if they do not hold any more."""
        if self.hub.sessions is None or self._grants is None:
            return None
        try:
            self.hub.sessions.enter(self._grants, connection)
        except PushError as error:
            return error
        return None


class QueryStream(Stream):
    """The logs of a query: from now on, from the beginning (``earliest``), or from a cursor."""

    def __init__(self, hub: Hub, query: Query, cursor: str | None = None) -> None:
        super().__init__(hub)
        self._cursor = cursor
        self._group = hub.group(query)
        self._from = self._group.channel.backlog.end

    @property
    def channel(self) -> Channel:
        return self._group.channel

    @property
    def factory(self) -> Callable[[str | None], Stream]:
        return partial(QueryStream, self.hub, self._group.query)  # without this stream, which would keep its group

    def open(self) -> None:
        self._check_draining()
        if self._group.closed:
            self._cursor = self._cursor or self._from.cursor
            self._group = self.hub.group(self._group.query)
        self._group.wait_settled()
        self._group.prepare(self._cursor)
        self._from = self.channel.seal()
        if self._group.query.filters_events:
            self._group.rebase_cursor(self._from)

    @property
    def first_bytes(self) -> int:
        return self._group.first_bytes(self._cursor)

    @property
    def beginning(self) -> str | None:
        return self._cursor or (self._from.cursor if self._group.query.events else None)

    def start(self, connection: Connection) -> None:
        group = self._group
        reselected = NOTHING_RESELECTED if self._cursor is None else group.reselected(self._cursor)
        if self._cursor is not None and (group.has_events or not reselected.statistics):
            self._resume(connection, self._cursor, reselected)
            return
        end = group.channel.seal()
        if group.has_statistics and not group.has_events:
            self._from = end
        is_known = group.settled.is_set() and (self._from is end or not group.has_statistics)
        if is_known and not group.conflation.takes_long(group.logs):
            self._start_live(connection)
        else:
            connection.push(self._opening())
            self.hub.replays.begin(group, connection, decode(self._from.cursor), ResumeReason.NEW)

    def _resume(self, connection: Connection, cursor: str, reselected: Reselected) -> None:
        group = self._group
        changes = group.changes_for(cursor)
        if changes is not None:
            group.channel.start(connection, group.channel.seal(), changes)
            return
        connection.push(OPENING)
        if cursor == EARLIEST:
            self.hub.replays.begin(group, connection, None, ResumeReason.EARLIEST)
        else:
            self.hub.replays.begin(group, connection, _positions(cursor), ResumeReason.CURSOR, reselected)

    def _opening(self) -> bytes:
        """Return the first bytes for a client without a cursor. It gets one with them, or with a snapshot."""
        begins_with_cursor = self._group.query.visible_heartbeat and not self._group.has_statistics
        return OPENING + heartbeat(True, self._from.cursor) if begins_with_cursor else OPENING

    def _start_live(self, connection: Connection) -> None:
        """Send the state, and the messages after it. Nothing here yields, so no message falls between the two."""
        group = self._group
        if group.has_statistics:
            first = group.conflation.initial_state()
        else:
            first = frame(self._opening()) if group.query.visible_heartbeat else _OPENING
            if not group.query.filters_events:  # else a heartbeat gives it a position: no event may ever come
                connection.joined_after = self._from.number
        group.channel.start(connection, self._from, first)


class LatestStream(Stream):
    """The newest events of a topic and their changes, or what a client with a cursor lacks of them."""

    def __init__(self, hub: Hub, query: LatestQuery, cursor: str | None = None) -> None:
        super().__init__(hub)
        self._query = query
        self._cursor = None if cursor == EARLIEST else cursor
        self._group = hub.latest(query)

    @property
    def channel(self) -> Channel:
        return self._group.channel

    @property
    def factory(self) -> Callable[[str | None], Stream]:
        return partial(LatestStream, self.hub, self._query)

    def open(self) -> None:
        self._check_draining()
        if self._group.channel.closed:
            self._group = self.hub.latest(self._query)
        topic, wait = self._group.topic, self.hub.feed.limits.wait
        topic.wait_settled(wait)
        position = (_positions(self._cursor) or {}).get(topic.log.partition) if self._cursor else None
        if position is not None:
            topic.wait_for(position, wait)

    @property
    def beginning(self) -> str | None:
        return self._cursor

    def start(self, connection: Connection) -> None:
        group = self._group
        if not group.topic.is_known:  # the log started over since
            connection.end(self.refusal(BrokerUnavailable("the newest events are being read")))
            return
        first = group.beginning(self._cursor)
        group.channel.start(connection, group.channel.seal(), first)


@dataclass(frozen=True, slots=True)
class Subscription:
    """A query, and the ``text`` that asked for it, which names it in messages and cursors."""

    text: str
    query: Query | LatestQuery | ListingQuery

    @property
    def label(self) -> sse.Label:
        return _label(self.text, of_events=isinstance(self.query, Query) and bool(self.query.events))

    def stream(self, hub: Hub, cursor: str | None) -> QueryStream | LatestStream | ListingStream:
        if isinstance(self.query, LatestQuery):
            return LatestStream(hub, self.query, cursor)
        if isinstance(self.query, ListingQuery):
            return ListingStream(hub, *self.query)
        return QueryStream(hub, self.query, cursor)


class CombinedStream(Stream):
    """Several subscriptions on one connection. Each equals a stream of its own, but for its labels and ids."""

    def __init__(
        self, hub: Hub, subscriptions: Sequence[Subscription], cursor: str | None = None, *,
        visible_heartbeat: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(hub)
        self._subscriptions = subscriptions
        self._visible_heartbeat = visible_heartbeat
        cursors = _cursors(subscriptions, cursor)
        self._streams = [one.stream(hub, at) for one, at in zip(subscriptions, cursors, strict=True)]
        self._channel = hub.combined(", ".join(one.text for one in subscriptions), visible_heartbeat=visible_heartbeat)

    @property
    def channel(self) -> Channel:
        return self._channel

    @property
    def factory(self) -> Callable[[str | None], Stream]:
        return partial(CombinedStream, self.hub, self._subscriptions, visible_heartbeat=self._visible_heartbeat)

    def open(self) -> None:
        rows = 0
        for place, stream in enumerate(self._streams):
            with at_place(f"sub[{place}]"):
                stream.open()
                rows += stream.first_bytes
                TooManyRows.check(rows, self.hub.feed.limits.snapshot)

    def start(self, connection: Connection) -> None:
        try:
            # Groups had no streams while the head was sent. While one is opened, another may be closed.
            while (closed := next((stream for stream in self._streams if stream.channel.closed), None)) is not None:
                closed.open()
            if connection.closed:
                return
            parts = [
                Part(self._channel, stream.channel, name_of(one.text), one.label, stream.beginning or "")
                for one, stream in zip(self._subscriptions, self._streams, strict=True)
            ]
            self._channel.begin(connection, parts)
        except PushError as error:
            connection.end(self.refusal(error))
            return
        # The position of a client that has nothing yet: if it is cut off now, it still misses nothing.
        connection.push(OPENING + heartbeat(True, self._channel.cursor()) if self._visible_heartbeat else OPENING)
        for part, stream in zip(parts, self._streams, strict=True):
            if not connection.closed:
                stream.start(part)


class ListingStream(Stream):
    """The state of a listing, and its changes."""

    def __init__(self, hub: Hub, key: Hashable, poll: Poll, describe: Describe | None = None) -> None:
        super().__init__(hub)
        self._source = (key, poll, describe)
        self._listing = hub.listing(*self._source)

    @property
    def channel(self) -> Channel:
        return self._listing.channel

    @property
    def factory(self) -> Callable[[str | None], Stream]:
        return lambda _: ListingStream(self.hub, *self._source)

    def open(self) -> None:
        self._check_draining()
        self._listing = self.hub.listing(*self._source)
        self._listing.refresh()

    def start(self, connection: Connection) -> None:
        connection.joined_after = _NO_POSITION
        self.channel.start(connection, self.channel.seal(), frame(OPENING))
        if not connection.closed:
            connection.push_framed(self._listing.framed_state())


@lru_cache(1_024)
def _label(text: str, *, of_events: bool) -> sse.Label:
    return sse.Label(orjson.dumps(text), of_events=of_events)


def _cursors(subscriptions: Sequence[Subscription], cursor: str | None) -> Sequence[str | None]:
    """Return where each subscription starts: those that a cursor does not have start as new ones."""
    if cursor is None or cursor == EARLIEST:
        return [cursor] * len(subscriptions)
    try:
        known = split(cursor)
    except UnreadableCursor:
        return [UNREADABLE] * len(subscriptions)
    return [known.get(name_of(one.text)) or None for one in subscriptions]


def _positions(cursor: str) -> dict[int, Position] | None:
    try:
        return decode(cursor)
    except UnreadableCursor:
        return None


def prepare(sock: Any, write_deadline: int) -> None:
    """Let the kernel notice a peer that does not answer any more. The server has chosen that data are sent at once."""
    with suppress(OSError, AttributeError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, write_deadline * 1_000)
