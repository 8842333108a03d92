"""One stream from its request to its end, over a socket that the hub takes or as an iterable of bytes."""

from __future__ import annotations

import logging
import socket
import ssl
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from pushsvc.cursor import Position, UnreadableCursor, decode
from pushsvc.errors import BrokerUnavailable, PushError
from pushsvc.hub.delivery.channel import Channel
from pushsvc.hub.delivery.connection import WRITE_DEADLINE, Connection, IteratedConnection, SecureConnection
from pushsvc.hub.groups.listing import Look
from pushsvc.hub.hub import DRAINING, Hub, farewell
from pushsvc.hub.messages import OPENING
from pushsvc.hub.query import Query

log = logging.getLogger(__name__)

C = TypeVar("C", bound=Connection)

EARLIEST = "earliest"


class Stream(ABC):
    """What is sent to one subscriber. ``open`` it before the head is sent; then it is taken over, or iterated."""

    def __init__(self, hub: Hub) -> None:
        hub.start()  # or refuse, before anything is made for it
        self.hub = hub
        self._connection: IteratedConnection | None = None

    @abstractmethod
    def open(self) -> None:
        """Wait until what is said from now on is heard; raise what the broker raises."""

    @property
    @abstractmethod
    def channel(self) -> Channel:
        """Return the channel that ``open`` found."""

    @property
    @abstractmethod
    def again(self) -> Callable[[str | None], Stream]:
        """Return what makes a stream of the same from another cursor, for who asks the same later."""

    @abstractmethod
    def start(self, connection: Connection) -> None:
        """Send the first bytes, and go on from where the stream begins."""

    def take_over(self, sock: Any, on_close: Callable[[], None]) -> None:
        """Send the stream on a non-blocking socket from now on; ``on_close`` is called once it is closed."""
        _prepare(sock)
        if isinstance(sock, ssl.SSLSocket):
            self._begin(lambda channel: SecureConnection(sock, channel, on_close))
        else:
            self._begin(lambda channel: Connection(sock.detach(), channel, on_close))

    def __iter__(self) -> Iterator[bytes]:
        connection = self._connection = self._begin(IteratedConnection)
        return iter(connection)

    def close(self) -> None:
        """The server has no more use for the iterable."""
        if self._connection is not None:
            self._connection.close()

    def _begin(self, connect: Callable[[Channel], C]) -> C:
        problem: PushError | None = BrokerUnavailable(DRAINING) if self.hub.draining else None
        if problem is None and self.channel.closed:  # for want of streams, as the head took so long to be sent
            try:
                self.open()
            except PushError as error:
                problem = error
        connection = connect(self.channel)
        self.hub.enter(connection)
        try:
            connection.listen()
            if problem is None:
                self.start(connection)
            else:
                connection.end(OPENING + farewell(reason(problem, self.hub)))
        except Exception:
            log.exception("a stream of %s", connection.channel.key)
            connection.fail()
        return connection


class QueryStream(Stream):
    """The logs of a query: from now on, from the beginning (``earliest``) or from a cursor."""

    def __init__(self, hub: Hub, query: Query, cursor: str | None = None) -> None:
        super().__init__(hub)
        self._cursor = cursor
        self._group = hub.group(query)
        self._from = self._group.tape.end

    @property
    def channel(self) -> Channel:
        return self._group

    @property
    def again(self) -> Callable[[str | None], Stream]:
        return partial(QueryStream, self.hub, self._group.query)  # and not this stream: it would keep its group

    def open(self) -> None:
        if self._group.closed:
            self._cursor = self._cursor or self._from.cursor
            self._group = self.hub.group(self._group.query)
        self.hub.wait_settled(self._group)
        self._group.seal()
        self._from = self._group.tape.end

    def start(self, connection: Connection) -> None:
        group, replays = self._group, self.hub.replays
        if self._cursor is not None:
            lacking = group.resumed(self._cursor)
            if lacking is not None:
                group.seal()
                _join(group, connection, group.tape.end, OPENING + lacking)
                return
            connection.push(OPENING)
            earliest = self._cursor == EARLIEST
            have = None if earliest else _positions(self._cursor)
            replays.begin(group, connection, have, earliest=earliest)
            return
        group.seal()
        if group.has_statistics and not group.has_events:
            self._from = group.tape.end
        if group.settled.is_set() and (self._from is group.tape.end or not group.has_statistics):
            self._from_now_on(connection)
        else:
            connection.push(OPENING)
            replays.begin(group, connection, decode(self._from.cursor), whole=True)

    def _from_now_on(self, connection: Connection) -> None:
        """Send the state, and what is said after it. Nothing here yields, so nothing falls between the two."""
        group = self._group
        first = OPENING
        if group.has_statistics:
            first += group.first()
        else:
            connection.first = self._from.number
        _join(group, connection, self._from, first)


class ListingStream(Stream):
    """The state of a listing, and again what changed."""

    def __init__(self, hub: Hub, key: str, look: Look) -> None:
        super().__init__(hub)
        self._key, self._look = key, look
        self._listing = hub.listing(key, look)

    @property
    def channel(self) -> Channel:
        return self._listing

    @property
    def again(self) -> Callable[[str | None], Stream]:
        return lambda _: ListingStream(self.hub, self._key, self._look)

    def open(self) -> None:
        if self.hub.draining:
            raise BrokerUnavailable(DRAINING)
        self._listing = self.hub.listing(self._key, self._look)
        self._listing.refresh()

    def start(self, connection: Connection) -> None:
        self._listing.seal()
        end = self._listing.tape.end
        connection.first = 2**63  # it never has a position
        _join(self._listing, connection, end, OPENING + self._listing.state())


def _join(channel: Channel, connection: Connection, at: Any, first: bytes) -> None:
    """Send the first bytes, and from then on what is said behind a chunk."""
    connection.at = at
    channel.slow.add(connection)
    if connection.push(first):
        channel.catch_up(connection)


def reason(error: PushError, hub: Hub) -> str:
    """Return what a client is told. Redis's own words may tell addresses: they are for the log."""
    return DRAINING if hub.draining else error.title


def _positions(cursor: str) -> dict[int, Position] | None:
    try:
        return decode(cursor)
    except UnreadableCursor:
        return None


def _prepare(sock: Any) -> None:
    """Send at once, and let the kernel notice a peer that answers no more."""
    with suppress(OSError, AttributeError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, WRITE_DEADLINE * 1_000)
