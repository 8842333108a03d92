"""Streams of the newest events of a topic: a snapshot, then what changes. A slow stream gets the newest state."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import orjson

from pushsvc import sse
from pushsvc.cursor import Position, UnreadableCursor, decode_with_digest, encode
from pushsvc.hub import messages as sse_messages
from pushsvc.hub import metrics
from pushsvc.hub.delivery.backlog import Chunk
from pushsvc.hub.delivery.channel import Channel
from pushsvc.hub.delivery.chunked import frame
from pushsvc.hub.delivery.connection import Connection
from pushsvc.hub.groups.group import FAR
from pushsvc.hub.groups.latest_topic import LatestTopic
from pushsvc.hub.groups.rankings import LARGE, Rankings
from pushsvc.hub.query import LatestQuery
from pushsvc.pause import Pause

_KEPT = 64  # beginnings of streams that are kept: after a disconnect most streams come back with the same few cursors


class LatestGroup:
    """The streams of a query, and the channel with their messages. Implements Recovery and LatestSubscriber."""

    def __init__(
        self, query: LatestQuery, topic: LatestTopic, on_end: Callable[[LatestGroup, str], None],
        open_channel: Callable[[LatestGroup], Channel], rankings: Rankings,
    ) -> None:  # fmt: skip
        self.key = self.query = query
        self.topic = topic
        self._on_end = on_end
        self._rankings = rankings
        self._cursor, self._digest = "", query.digest
        self._made: tuple[Chunk, dict[str, bytes]] | None = None
        self.channel = open_channel(self)

    def __str__(self) -> str:
        return f"a group of streams, {self.query}"

    @property
    def keys(self) -> Collection[str] | None:
        return self.query.keys

    # Messages

    def take(self, changed: Sequence[str], gone: Sequence[str]) -> None:
        """Broadcast the events of changed keys, and which keys are gone."""
        state = self.topic.state
        self._send([self._update([state.event(key) for key in changed], gone)])

    def start_over(self, reasons: Collection[str]) -> None:
        """Broadcast all events, after the reasons why earlier ones may be lost."""
        resets = [sse_messages.reset(self.query.topic, reason) for reason in reasons]
        self._send([*resets, self._snapshot()])

    def _send(self, messages: list[bytes]) -> None:
        messages[-1] = sse.with_id(messages[-1], self.cursor())
        self.channel.broadcast(messages)

    def _update(self, events: Sequence[bytes], gone: Sequence[str]) -> bytes:
        topic = orjson.dumps(self.query.topic)
        data = b'{"topic":%b,"events":[%b],"gone":%b}' % (topic, b",".join(events), orjson.dumps(gone))
        return sse.encode(data, event="update")

    def _snapshot(self) -> bytes:
        state = self.topic.state
        events = state.events(self.query.keys)
        evicted = None if self.query.limited else state.evicted
        document = b"".join(sse_messages.latest_document(self.query.topic, events, evicted))
        return sse.encode(document, event="snapshot")

    def beginning(self, cursor: str | None) -> bytes:
        """Return the first bytes of a stream, framed: what a client with a cursor lacks, or all events.

        The topic is settled. Streams that come with one cursor at the same position get the same bytes.
        """
        return self._kept(f"new {cursor}", lambda: [sse_messages.OPENING, *self._since(cursor)])

    def _kept(self, name: str, make: Callable[[], list[bytes]]) -> bytes:
        end = self.channel.seal()
        if self._made is None or self._made[0] is not end:
            self._made = (end, {})
        made = self._made[1]
        if name not in made:
            if len(made) == _KEPT:
                made.clear()
            made[name] = frame(*make())
            if len(made[name]) > LARGE:
                self._rankings.keep_large(self)
        return made[name]

    def _since(self, cursor: str | None) -> list[bytes]:
        """Return the messages that lead a client with a cursor to the present state, the last one with an id."""
        resets: list[bytes] = []
        changes: tuple[list[bytes], list[str]] | None = None
        if cursor is not None:
            try:
                positions, digest = decode_with_digest(cursor)
            except UnreadableCursor:
                resets = [sse_messages.reset(self.query.topic, "trimmed")]
            else:
                position = positions.get(self.topic.log.partition)
                if position is not None and digest == self._digest:
                    reason, changes = self._changes(position)
                    resets = [] if reason is None else [sse_messages.reset(self.query.topic, reason)]
        if changes is not None and not any(changes):
            return []
        message = self._snapshot() if changes is None else self._update(*changes)
        return [*resets, sse.with_id(message, self.cursor())]

    def _changes(self, position: Position) -> tuple[str | None, tuple[list[bytes], list[str]] | None]:
        """Return why a position is lost, or None, and what changed after it; None if that is unknown."""
        state = self.topic.state
        if position.epoch != state.epoch:
            return "broker-restarted", None
        if self.topic.deleted > position.sequence:
            return "deleted", None
        if position.sequence > max(state.sequence, self.topic.position.sequence):
            return None, None
        return None, state.since(position.sequence, self.query.keys)

    # Recovery

    def cursor(self) -> str:
        """Return the position of a client that has every message. While the state is read anew it stays."""
        if self.topic.is_known:
            state = self.topic.state
            position = Position(state.epoch, state.sequence)
            self._cursor = encode({self.topic.log.partition: position}, self._digest)
        return self._cursor

    @property
    def moves_silently(self) -> bool:
        return self.query.keys is not None

    def is_far(self, chunk: Chunk) -> bool:
        return self.channel.backlog.end.number - chunk.number > FAR and self.topic.is_known

    def recover(self, connection: Connection, chunk: Chunk) -> None:
        """Send a slow client what changed since its last message. It comes back if that is not known now."""
        metrics.DROPPED.inc(chunk.lost)
        if not self.topic.is_known:
            connection.end(sse_messages.farewell("the newest events are being read"))
            return
        data = self._kept(f"slow {chunk.cursor}", lambda: self._since(chunk.cursor))
        connection.at = self.channel.seal()
        if connection.push_framed(data):
            self.channel.discard_slow(connection)

    # Life

    def end(self, reason: str) -> None:
        self._on_end(self, reason)

    def fail(self) -> None:
        self.channel.fail()

    def close(self) -> None:
        self.channel.close()
        self.topic.discard(self)
        self._made = None

    # RankedGroup: the keeper of large messages

    def work(self, pause: Pause) -> None:
        """Do nothing: the messages are made at once."""

    def forget(self) -> None:
        """Drop the messages that are kept for others that want the same."""
        self._made = None
