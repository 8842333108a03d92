"""One stream from its request to its end, over a socket that the hub takes or as an iterable of bytes."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

from pushsvc.cursor import Position, UnreadableCursor, decode
from pushsvc.errors import PushError
from pushsvc.hub.connection import WRITE_DEADLINE, Connection, IteratedConnection
from pushsvc.hub.frames import OPENING
from pushsvc.hub.group import Group
from pushsvc.hub.hub import DRAINING, Hub, farewell
from pushsvc.hub.query import Query

log = logging.getLogger(__name__)

C = TypeVar("C", bound=Connection)

EARLIEST = "earliest"


class Stream:
    """What is sent to one subscriber: from now on, from the beginning (``earliest``) or from a cursor."""

    def __init__(self, hub: Hub, query: Query, cursor: str | None = None) -> None:
        self._hub = hub
        self._query = query
        self._cursor = cursor
        self._connection: IteratedConnection | None = None
        self.open()

    def open(self) -> None:
        """Wait until what is published from now on is heard: a head that is sent after this promises it.

        Raises BrokerUnavailable.
        """
        group = self._group = self._settled()
        group.seal()
        self._from = group.tape.end

    def _settled(self) -> Group:
        group = self._hub.group(self._query)
        self._hub.wait_settled(group)
        return group

    def take_over(self, sock: Any, on_close: Callable[[], None]) -> None:
        """Send the stream on a non-blocking socket from now on; ``on_close`` is called once it is closed."""
        _prepare(sock)
        self._begin(lambda group: Connection(sock, group, on_close))

    def __iter__(self) -> Iterator[bytes]:
        connection = self._connection = self._begin(IteratedConnection)
        return iter(connection)

    def close(self) -> None:
        """The server has no more use for the iterable."""
        if self._connection is not None:
            self._connection.close()

    def _begin(self, connect: Callable[[Group], C]) -> C:
        """Send the first bytes, and go on from where the stream begins."""
        problem = None
        if self._group.closed:  # for want of streams, as the head took so long to be sent
            self._cursor = self._cursor or self._from.cursor
            try:
                self.open()
            except PushError as error:
                problem = error
        connection = connect(self._group)
        self._hub.enter(connection)
        try:
            connection.listen()
            if problem is None:
                self._start(connection)
            else:
                connection.end(OPENING + farewell(reason(problem, self._hub)))
        except Exception:
            log.exception("a stream of %s", self._query)
            connection.fail()
        return connection

    def _start(self, connection: Connection) -> None:
        group = self._group
        if self._cursor is not None:
            connection.push(OPENING)
            earliest = self._cursor == EARLIEST
            have = None if earliest else _positions(self._cursor)
            self._hub.replays.begin(connection, have, earliest=earliest)
            return
        group.seal()
        if group.has_statistics and not group.has_events:
            self._from = group.tape.end
        if group.settled.is_set() and (self._from is group.tape.end or not group.has_statistics):
            self._from_now_on(connection)
        else:
            connection.push(OPENING)
            self._hub.replays.begin(connection, decode(self._from.cursor), whole=True)

    def _from_now_on(self, connection: Connection) -> None:
        """Send the state, and what is said after it. Nothing here yields, so nothing falls between the two."""
        group = self._group
        first = OPENING
        if group.has_statistics:
            first += group.first()
        else:
            connection.first = self._from.number
        connection.at = self._from
        group.slow.add(connection)
        if connection.push(first):
            group.catch_up(connection)


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
