"""Streams with equal queries: each message is made once and sent to all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from copy import copy
from enum import Enum, auto
from time import monotonic
from types import MappingProxyType
from typing import Any

from gevent import get_hub

from pushsvc import sse
from pushsvc.broker.keys import Log
from pushsvc.broker.log import EventsEntry, LogEntry, StatisticsEntry
from pushsvc.cursor import Position, UnreadableCursor, decode, decode_with_digest
from pushsvc.errors import BrokerUnavailable, InvalidInput, PushError, TooManyFilters, TooManyRows
from pushsvc.event.conditions import EventFilter
from pushsvc.hub import messages as sse_messages
from pushsvc.hub import metrics
from pushsvc.hub.delivery.backlog import Chunk
from pushsvc.hub.delivery.channel import Channel
from pushsvc.hub.delivery.connection import Connection
from pushsvc.hub.feed.feed import Feed
from pushsvc.hub.feed.few import Few, including
from pushsvc.hub.feed.router import LogSource
from pushsvc.hub.feed.tail import Tail
from pushsvc.hub.groups.conflate import Conflation
from pushsvc.hub.groups.latch import Latch
from pushsvc.hub.groups.positions import NO_LOGS, LogsByPartition, SentPositions
from pushsvc.hub.groups.rankings import Rankings
from pushsvc.hub.query import NOTHING_RESELECTED, Query, Reselected
from pushsvc.pause import Pause
from pushsvc.settings import TopicRules

FAR = 4  # chunks by which a stream of statistics alone may be behind before its updates are conflated
_RECONNECTING = 0.1  # seconds to wait for a live connection that was up: it comes back soon, or Redis is away
_LOADS = 12  # waits for windows that are taken over: a minute
_AT_ONCE = 50  # named topics that are followed in one turn of the loop

_NOTHING: Mapping[Any, Any] = MappingProxyType({})
"""For what few groups have: an empty dictionary would take 64 bytes of each."""

_NO_OFFSETS: dict[Log, int] = {}  # never changed


class ResumeReason(Enum):
    """Why a connection reads history before it continues live."""

    CURSOR = auto()  # the client comes with a cursor
    EARLIEST = auto()  # the client asks for everything that the logs still hold
    NEW = auto()  # the client has no statistics yet
    TOO_SLOW = auto()  # the backlog lost its place: the messages tell how many updates they replace


Resume = Callable[["Group", Connection, Mapping[int, Position] | None, ResumeReason], None]
"""Brings a connection from the client's positions (None: unreadable) to the live messages of its group."""


class Group:
    """The logs of a query, and the channel with their messages.

    Implements Recovery, TopicConsumer and LogConsumer; FilteredConsumer if the query filters events.

    ``settled`` is set while every log has been read once and its state is known. ``generation`` increases whenever a
    log starts over. ``on_end(group, reason)`` ends all streams. ``resume`` serves a connection from the logs.
    """

    def __init__(
        self,
        query: Query,
        rules: TopicRules,
        feed: Feed,
        resume: Resume,
        on_end: Callable[[Group, str], None],
        open_channel: Callable[[Group], Channel],
        rankings: Rankings,
    ) -> None:
        self.key = self.query = query
        self.logs: Few[Log] = ()
        self.topics = 0  # their number
        self.followers: Mapping[int, LogSource] = _NOTHING
        self.settled = Latch()
        self.generation = 0
        self.has_events = self.has_statistics = False
        self.paces_statistics = bool(query.every or query.selection.top)  # they are not sent entry by entry
        self._rules = rules
        self._feed = feed
        self._resume = resume
        self._on_end = on_end
        self._rankings = rankings
        self._reserved_names = query.reserved_names
        self._refused: PushError | None = None
        self._reset_is_newest = False
        self._was_settled = False
        self._unfollowed: Sequence[str] = ()  # topics that the query names
        self._unread = LogsByPartition()  # logs that are new or start over
        self._sent = SentPositions(self.followers, query.digest)
        self._skip: dict[Log, int] = _NO_OFFSETS
        # topic: the sequence of its deletion, which all its logs report
        self._sent_deletions: Mapping[str, int] = _NOTHING
        self._sent_resets: Mapping[tuple[str, str], int] = (
            _NOTHING  # (topic, reason): the partition that is not read yet
        )
        self.channel = open_channel(self)
        self._conflation: Conflation | None = None

    def __str__(self) -> str:
        return f"a group of streams, {self.query}"

    @property
    def closed(self) -> bool:
        return self.channel.closed

    @property
    def filter(self) -> EventFilter:
        return self.query.routed_filter

    @property
    def is_settled(self) -> bool:
        return self.settled.is_set()

    @property
    def conflation(self) -> Conflation:
        """Return the messages of rows. Made at the first use: groups of events alone never need them."""
        if self._conflation is None:
            self._conflation = Conflation(self.query, self.logs, self._sent, self.channel, self._rankings)
        return self._conflation

    # Logs

    @property
    def patterns(self) -> tuple[str, ...]:
        return self.query.patterns

    def open(self) -> None:
        """Follow the first topics of the query, and the others with ``wait_settled``: a query may name a thousand."""
        self._unfollowed = list(self.query.named_topics)
        self._follow_piece()
        if self.query.has_patterns and not self.closed:
            self._feed.directory.add(self)

    def _follow_piece(self) -> None:
        piece, self._unfollowed = self._unfollowed[:_AT_ONCE], self._unfollowed[_AT_ONCE:]
        self.extend(piece)

    def extend(self, topics: Iterable[str], *, from_start: bool = False) -> None:
        """Follow topics too. Those created while this group was subscribed are read ``from_start``."""
        self.subscribe(self.follow(topics, from_start=from_start))

    def follow(self, topics: Iterable[str], *, from_start: bool = False) -> list[Log]:
        new: list[Log] = []
        for covered in self.query.logs_of_each(topics, self._rules):
            logs = [of for of in covered if of not in self.logs]
            if not logs:
                continue
            if (refused := self._refusal(logs)) is not None:
                self.refuse(refused)
                break
            self.topics += 1
            if self._has_too_many_topics:
                self._on_end(self, f"more than {self.query.topics} topics")
                return []
            self._follow(logs, from_start=from_start)
            new += logs
        return new

    def _refusal(self, logs: Sequence[Log]) -> PushError | None:
        """Return why logs cannot be followed, if they cannot."""
        if (refused := self._feed.refusal(logs)) is not None:
            return refused
        if not self._feed.has_room_for(self.filter, logs[0]):
            return TooManyFilters("limits.filters is reached: raise it, or run more web processes")
        return None

    def subscribe(self, logs: Iterable[Log]) -> None:
        for of in logs:
            if not self.closed:
                self._feed.subscriptions.subscribe(of)

    def _follow(self, logs: list[Log], *, from_start: bool) -> None:
        self.settled.clear()
        for of in logs:
            self.logs = including(self.logs, of)
        if self._conflation is not None:
            self._conflation.logs = self.logs
        self._unread.add(logs)
        statistics = [of for of in logs if of.window is not None]
        self.has_events |= len(statistics) < len(logs)
        if statistics:
            self.has_statistics = True
            self._sent.unsent_states.add(statistics)
        if self.has_statistics:
            self.conflation.paces_cursor = not self.has_events
        follower = self._feed.source(logs[0], self.filter)
        if follower.partition not in self.followers:
            self._sent.join(follower.partition)
        if self.followers.get(follower.partition) is not follower:
            others = {p: other for p, other in self.followers.items() if p != follower.partition}
            self.followers = {**others, follower.partition: follower} if others else follower.alone
            self._sent.followers = self.followers
        follower.add(self, logs, from_start=from_start)

    def wait_settled(self) -> None:
        """Return once every notification arrives and the state is known; raise BrokerUnavailable.

        The logs are registered before Redis is asked, so two streams that come at once both miss nothing. Raises
        InvalidInput or TooManyLogsFollowed if the query has too many topics.
        """
        live, directory, wait = self._feed.live, self._feed.directory, self._feed.limits.wait
        self._follow_rest()
        listed = directory.has_listed(self)
        if self.settled.is_set() and listed and live.receives(self.followers):
            self._check()
            return
        if not live.up.wait(_RECONNECTING if self._feed.has_been_up else wait):
            raise BrokerUnavailable("no connection to Redis")
        if self.query.has_patterns:
            directory.wait_listed()
        self._check()  # a closed group would subscribe to a log that nothing unsubscribes from
        confirmations = [self._feed.subscriptions.subscribe(of) for of in self.logs]
        if not self.logs:
            self.on_read(())
        deadline = monotonic() + wait
        settled = self._wait_loaded(wait)
        self._check()
        if not all(confirmation.wait(max(0.0, deadline - monotonic())) for confirmation in confirmations):
            raise BrokerUnavailable("Redis did not confirm a subscription in time")
        if not settled:
            raise BrokerUnavailable("Redis did not answer in time")

    def _wait_loaded(self, wait: float) -> bool:
        """Wait until the group is settled, and for longer than ``wait`` only while large windows are taken over."""
        for _ in range(_LOADS):
            slices = self._feed.loader.slices
            self.channel.touch()  # else it is closed as one that had no stream for long
            if self.settled.wait(wait) or slices == self._feed.loader.slices:
                break
        return self.settled.is_set()

    def _follow_rest(self) -> None:
        """Follow the topics that are named but not followed yet, in pieces between which the event loop gets a turn."""
        if not self._unfollowed:
            return
        while self._unfollowed and not self.closed:
            with self._feed.opening:  # else each of a hundred streams that open would take a piece of every turn
                get_hub().wait(get_hub().loop.timer(0))
                if not self.closed:
                    self._follow_piece()
        if not self._unread:
            self.on_read(())

    def prepare(self, cursor: str | None = None) -> None:
        """Do what would take long once a stream starts, of a client with a cursor or without one.

        Raise TooManyRows if it would begin with too many.
        """
        if not self.has_statistics:
            return
        lacking = self._lacking_at(cursor)
        self.check_size(lacking)
        if self.conflation.prepare(lacking):
            self._check()
        self.conflation.await_turn(lacking)
        self._check()

    def _lacking_at(self, cursor: str | None) -> Mapping[Log, int | None] | None:
        if cursor is not None:
            with suppress(UnreadableCursor):
                return self.conflation.lacking(decode(cursor))
        return None

    def first_bytes(self, cursor: str | None) -> int:
        """Return about how many bytes of rows a stream begins with."""
        return self.conflation.size(self._lacking_at(cursor)) if self.has_statistics else 0

    def check_size(self, lacking: Mapping[Log, int | None] | None) -> None:
        """Raise TooManyRows if a client lacks more than it may get at once."""
        TooManyRows.check(self.conflation.size(lacking), self._feed.limits.snapshot)

    def _check(self) -> None:
        """Raise the reason why this group has ended, if it has."""
        if self._has_too_many_topics:
            raise InvalidInput(f"more than {self.query.topics} topics: name fewer, or a narrower pattern")
        if self._refused is not None:
            raise copy(self._refused)  # one object would collect the tracebacks of all streams
        if self.closed:
            raise BrokerUnavailable("the group of the stream ended before Redis had answered")

    @property
    def _has_too_many_topics(self) -> bool:
        return self.topics > self.query.topics

    def tail(self, of: Log) -> Tail:
        """Return a followed log; raise BrokerUnavailable if the group has ended, as a replay may still look it up."""
        tail = self.followers[of.partition].tails.get(of)
        if tail is None:
            raise BrokerUnavailable("the group of the stream ended")
        return tail

    # Positions

    def cursor(self) -> str:
        """Return the position of a client that has every message up to now."""
        return self._sent.cursor()

    @property
    def moves_silently(self) -> bool:
        """True if the query filters, or if no message with an id followed a reset, which would else be repeated."""
        return self.query.selection.filters or self.query.filters_events or self._reset_is_newest

    def note_reset(self) -> None:
        """Note that streams were sent a reset."""
        self._reset_is_newest = True

    def rebase_cursor(self, chunk: Chunk) -> None:
        """Move the cursor of the newest chunk to the current position: the logs may have advanced without a message."""
        chunk.cursor = self.cursor()

    # LogConsumer

    def take(self, partition: int, batch: Sequence[tuple[Log, LogEntry]], rendering: sse_messages.Rendering) -> None:
        if self.closed:
            return  # its logs may be followed no more
        sent, skip = self._sent, self._skip
        starting: Set[Log] = self._start_states(partition) if sent.unsent_states else NO_LOGS
        messages = self._states(starting) if starting else []
        states = len(messages)
        cursors = sent.cursors(partition)
        for of, entry in batch:
            if of in starting or of in sent.unsent_states or (skip and entry.last <= skip.get(of, 0)):
                continue
            if isinstance(entry, EventsEntry):
                events = rendering.selected(of, entry, self.query.filter_of(of.topic), self._reserved_names)
                messages += [sse.with_id(message, cursors(entry.sequence_of(offset))) for offset, message in events]
            elif self._has_outgrown(of):
                return
            elif self.paces_statistics:
                self.conflation.note(of, entry)
            elif (message := rendering.statistics(entry, self.query.selection_of(of.topic))) is not None:
                messages.append(sse.with_id(message, cursors(entry.sequence)))
        through = batch[-1][1].sequence
        if states and len(messages) == states:
            messages[-1] = sse.with_id(messages[-1], cursors(through))
        self.channel.broadcast(messages)
        if messages and self._reset_is_newest and self.settled.is_set():
            self._reset_is_newest = False
        if self.paces_statistics:
            self.conflation.emit()
        sent.advance(partition, through)

    def _has_outgrown(self, of: Log) -> bool:
        """Return whether a window has more rows than a message may have. Then the streams end."""
        state = self.tail(of).window_state
        if state is None or state.bytes <= self._feed.limits.snapshot:
            return False
        return self._refuse_beyond([of])

    def _refuse_beyond(self, logs: Iterable[Log]) -> bool:
        try:
            self.check_size(dict.fromkeys(logs))
        except TooManyRows as error:
            self.refuse(error)
            return True
        return False

    def prepare_messages(
        self, batch: Sequence[tuple[Log, LogEntry]], rendering: sse_messages.Rendering, pause: Pause
    ) -> None:
        for of, entry in batch:
            if isinstance(entry, StatisticsEntry) and not self.paces_statistics and not self.closed:
                rendering.prepare(entry, self.query.selection_of(of.topic), pause)

    def note_taken(self, partition: int, sequence: int) -> None:
        if not self.closed and not self._sent.is_held(partition):
            self._sent.send_ahead(partition, sequence)

    def take_selected(
        self, of: Log, entry: EventsEntry, offsets: Sequence[int], rendering: sse_messages.Rendering
    ) -> None:
        if self.closed or entry.last <= self._skip.get(of, 0):
            return
        cursors, reserved = self._sent.cursors(of.partition), self._reserved_names
        # A client that is there lacks nothing before these events, and a recovery begins there.
        self.channel.move_end(cursors(entry.sequence_of(offsets[0]) - 1))
        if entry.correction is None:
            messages: Iterable[tuple[int, bytes]] = (
                (offset, rendering.event(of, entry, offset, reserved)) for offset in offsets
            )
        else:
            messages = rendering.selected(of, entry, self.query.filter_of(of.topic), reserved)
        self.channel.broadcast(
            [sse.with_id(message, cursors(entry.sequence_of(offset))) for offset, message in messages]
        )
        if self.settled.is_set():
            self._reset_is_newest = False
        self._sent.advance(of.partition, entry.sequence)
        self._sent.send_ahead(of.partition, entry.sequence)

    def on_read(self, logs: Iterable[Log]) -> None:
        """Broadcast the state of logs that are new or start over, partition by partition; then be settled."""
        if self.closed or self.settled.is_set():
            return
        self._unread.discard([of for of in logs if of in self._unread and not self.tail(of).catching_up])
        unread = self._unread.partitions
        if (unread or self._unfollowed) and not self._was_settled:
            return
        self._sent.release_all_but(unread)
        self._sent_resets = {sent: p for sent, p in self._sent_resets.items() if p in unread} or _NOTHING
        unsent = self._sent.unsent_states
        known = {of for partition in unsent.partitions if partition not in unread for of in unsent.of(partition)}
        if known and self._was_settled:
            if self._refuse_beyond(known):
                return
            if self.conflation.takes_long(known):
                self.conflation.prepare_soon(self._on_prepared)
                return
            unsent.discard(known)
            self.conflation.broadcast_states(of for of in self.logs if of in known)
        unsent.discard(known)
        if not unread:
            self.settled.set()
            self._was_settled = True
            # Logs that joined start here: a client that resumes from before must read them up to this position.
            self.rebase_cursor(self.channel.seal())

    def _on_prepared(self) -> None:
        self.on_read(())

    def reset(self, of: Log, reason: str) -> None:
        """Broadcast that a log starts over. A snapshot of statistics follows, or the events that are left."""
        if self.closed:
            return
        self.settled.clear()
        self._unread.add([of])
        self.generation += 1
        if of in self._skip:
            del self._skip[of]
        self._sent.start_over(of.partition)
        if of.window is not None:
            self._sent.unsent_states.add([of])
            self.conflation.reset(of)
        if reason == "trimmed" and of.window is not None:
            return  # nothing is lost: the snapshot has all rows
        if reason == "deleted":
            deleted = self.tail(of).deleted
            if self._sent_deletions.get(of.topic) == deleted:
                return
            self._sent_deletions = {**self._sent_deletions, of.topic: deleted}
        if self._was_settled and (of.topic, reason) not in self._sent_resets:
            self._sent_resets = {**self._sent_resets, (of.topic, reason): of.partition}
            self.channel.broadcast([sse_messages.reset(of.topic, reason)])
            self.note_reset()

    def skip(self, of: Log, offset: int) -> None:
        self._unread.add([of])
        if not self._skip:
            self._skip = {}
        self._skip[of] = max(offset, self._skip.get(of, 0))

    def refuse(self, reason: PushError) -> None:
        self._refused = reason
        self._on_end(self, reason.detail if isinstance(reason, TooManyRows) else reason.title)
        self.settled.set()  # those that wait for it look why

    def fail(self) -> None:
        self.channel.fail()

    def _start_states(self, partition: int) -> set[Log]:
        """Return the statistics logs of a partition whose state is known now but unsent, and count them as sent."""
        found = {of for of in self._sent.unsent_states.of(partition) if not self.tail(of).catching_up}
        if found and self._was_settled and self.conflation.takes_long(found):
            return set()  # on_read lets them be prepared
        self._sent.unsent_states.discard(found)
        return found

    def _states(self, logs: Iterable[Log]) -> list[bytes]:
        """Return snapshots without an id: the next message has one."""
        wanted = set(logs) if self._was_settled else ()
        found = [message for of in self.logs if of in wanted for message in self.conflation.state(of)] if wanted else []
        return [b"".join(message) for message in found]

    def reselected(self, cursor: str) -> Reselected:
        """Return what a cursor has not had in its selection."""
        try:
            return self.query.reselects(decode_with_digest(cursor)[1])
        except UnreadableCursor:
            return NOTHING_RESELECTED

    def changes_for(self, cursor: str) -> bytes | None:
        """Return the beginning of a stream with what a client lacks, framed.

        None unless it wants statistics alone and none of them was lost. Clients that come with one cursor in the same
        second get the same bytes.
        """
        if not self._can_conflate:
            return None
        try:
            positions = decode(cursor)
        except UnreadableCursor:
            return None
        if not all(self._is_within_reach(of, positions.get(of.partition)) for of in self.logs):
            return None
        if self.query.has_patterns and not positions.keys() <= self.followers.keys():
            return None
        return self.conflation.changes_for(cursor, positions)

    def _is_within_reach(self, of: Log, position: Position | None) -> bool:
        follower, tail = self.followers[of.partition], self.tail(of)
        if position is None or position.partial or position.epoch != follower.position.epoch:
            return False
        return max(tail.deleted, tail.trimmed) <= position.sequence <= follower.position.sequence

    # Recovery

    def is_far(self, chunk: Chunk) -> bool:
        return self.channel.backlog.end.number - chunk.number > FAR and self._can_conflate

    @property
    def _can_conflate(self) -> bool:
        """True when the newest rows are all that a stream needs."""
        return self.has_statistics and not self.has_events and self.settled.is_set()

    def recover(self, connection: Connection, chunk: Chunk) -> None:
        if chunk.lost:
            metrics.DROPPED.inc()
        if not self._can_conflate:
            self._resume(self, connection, decode(chunk.cursor), ResumeReason.TOO_SLOW)
            return
        lacking = self.conflation.lacking(decode(chunk.cursor))
        try:
            self.check_size(lacking)
        except TooManyRows as error:
            connection.end(sse_messages.farewell(error.detail))
            return
        if not self.conflation.is_prepared(lacking):
            self.conflation.recover(connection)
            return
        end = self.channel.seal()
        data = self.conflation.since_chunk(chunk)
        connection.at = end
        if connection.push_framed(data):
            self.channel.discard_slow(connection)

    def close(self) -> None:
        self._feed.directory.discard(self)
        self.channel.close()
        if self._conflation is not None:
            self._conflation.close()
        logs: dict[int, list[Log]] = {}
        for of in self.logs:
            logs.setdefault(of.partition, []).append(of)
        for partition, followed in logs.items():
            self.followers[partition].discard(self, followed)
