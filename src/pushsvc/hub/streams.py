"""What one subscriber is sent, as a generator of bytes: it may be slow, it may go away, it never slows another."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import gevent
import orjson

from pushsvc import sse
from pushsvc.broker import Entry, EventsEntry, Log, StatisticsEntry
from pushsvc.broker.broker import NOTHING
from pushsvc.cursor import Position, UnreadableCursor, decode, encode
from pushsvc.errors import BrokerUnavailable, PushError, Unavailable
from pushsvc.hub.follower import Follower, Subscription, Tail
from pushsvc.hub.hub import JOIN_SECONDS, Hub
from pushsvc.hub.mirror import Selection, encode_frame

RETRY = 2_000
DRAINING = "the server is restarting"
HEARTBEAT = 15.0
EARLIEST = "earliest"
REPLAY_AFTER_RESET = 1_000
"""Events sent, at most, of what is left of a log after a reset."""

_NAMES = {"u": "update", "s": "snapshot"}
_PAUSE = 1.0


@dataclass(frozen=True, slots=True)
class StatisticsQuery:
    """A statistics stream: the windows of one topic, which rows, and the cursor it resumes from."""

    logs: tuple[Log, ...]
    selection: Selection = field(default_factory=Selection)
    cursor: str | None = None
    visible_heartbeat: bool = False
    heartbeat: float = HEARTBEAT


@dataclass(frozen=True, slots=True)
class EventsQuery:
    """An events stream of one topic. ``named`` sends an event's type as the SSE event name."""

    log: Log
    cursor: str | None = None
    named: bool = True
    visible_heartbeat: bool = False
    heartbeat: float = HEARTBEAT


def statistics_stream(hub: Hub, query: StatisticsQuery) -> Iterator[bytes]:
    """Yield a snapshot (or what was missed since the cursor), then updates, for ever."""
    try:
        with hub.subscribed(query.logs) as (subscription, follower):
            yield from _Statistics(subscription, follower, query).run()
            yield goodbye(DRAINING, hub)
    except Unavailable as error:
        # Redis's own words may tell addresses: they are for the log, not for every browser.
        reason = DRAINING if hub.draining else error.title
        yield _opening() + goodbye(reason, hub)


def event_stream(hub: Hub, query: EventsQuery) -> Iterator[bytes]:
    """Yield events from now on or behind the cursor, for ever.

    The first bytes come when the subscription stands: what is published after ``onopen`` is received.
    """
    try:
        with hub.subscribed([query.log]) as (subscription, follower):
            yield from _Events(hub, subscription, follower, query).run()
            yield goodbye(DRAINING, hub)
    except Unavailable as error:
        # Redis's own words may tell addresses: they are for the log, not for every browser.
        reason = DRAINING if hub.draining else error.title
        yield _opening() + goodbye(reason, hub)


def goodbye(reason: str, hub: Hub) -> bytes:
    """Return the end of a stream that time can mend: any status but 200 would close an EventSource for ever."""
    return sse.retry(hub.jittered(RETRY)) + sse.comment(reason)


def _opening() -> bytes:
    return sse.retry(RETRY) + sse.comment("pushsvc")


def _reset(topic: str, reason: str, id: str | None = None) -> bytes:
    return sse.encode(orjson.dumps({"topic": topic, "reason": reason}), event="reset", id=id)


def _position(cursor: str | None, partition: int) -> Position | None:
    """Return where a cursor stands in a partition; None where it cannot be read or says nothing of it."""
    if cursor is None:
        return None
    try:
        return decode(cursor).get(partition)
    except UnreadableCursor:
        return None


def _heartbeat(visible: bool, id: str | None) -> bytes:
    if visible:
        return sse.encode(b'{"at":%d}' % (time.time() * 1000), event="heartbeat", id=id)
    return sse.comment("heartbeat") + (b"" if id is None else sse.move_cursor(id))


class _Statistics:
    """The statistics of some windows of a topic, to one subscriber."""

    def __init__(self, subscription: Subscription, follower: Follower, query: StatisticsQuery) -> None:
        self._subscription = subscription
        self._follower = follower
        self._query = query
        self._partition = follower.partition

    @property
    def _tails(self) -> list[Tail]:
        return [self._follower.tails[of] for of in self._query.logs]

    def _id(self, sequence: int) -> str:
        return encode({self._partition: Position(self._follower.epoch or 0, sequence)})

    def run(self) -> Iterator[bytes]:
        yield _opening() + self._first()
        silent_until = time.monotonic() + self._query.heartbeat
        while True:
            entries = self._subscription.take(max(0.0, silent_until - time.monotonic()))
            if self._subscription.closing:
                return
            # A snapshot is taken and collecting begins without a yield between: nothing falls between the two.
            if self._subscription.reset is not None:
                yield from self._after_reset()
            elif self._subscription.lost:
                skipped = self._subscription.lost
                self._subscription.clear()
                yield self._snapshots(skipped)
            else:
                frames = b"".join(filter(None, (self._frame(entry) for _, entry in entries)))
                if frames:
                    yield frames
                elif time.monotonic() >= silent_until:
                    yield _heartbeat(self._query.visible_heartbeat, self._id(self._follower.through))
                else:
                    continue  # updates of rows that this query leaves out do not break the silence
            silent_until = time.monotonic() + self._query.heartbeat

    def _after_reset(self) -> Iterator[bytes]:
        reason, self._subscription.reset = self._subscription.reset or "", None
        yield _reset(self._query.logs[0].topic, reason)
        while not self._follower.wait_loaded(self._query.heartbeat):
            yield _heartbeat(self._query.visible_heartbeat, None)
        if self._subscription.reset is None:
            self._subscription.clear()
            yield self._snapshots()

    def _first(self) -> bytes:
        """Return what a new subscriber needs, and begin collecting."""
        self._subscription.collecting = True
        if self._query.cursor is None:
            return self._snapshots()
        reason, position = self._lost(), _position(self._query.cursor, self._partition)
        self._subscription.clear()  # what came while waiting is in the mirror: sent again, its offsets would go back
        if reason is not None or position is None:
            return _reset(self._query.logs[0].topic, reason or "trimmed") + self._snapshots()
        return self._missed(position.sequence) or self._snapshots()

    def _lost(self) -> str | None:
        position = _position(self._query.cursor, self._partition)
        if position is None:
            return "trimmed"
        if not self._follower.wait_for(position, JOIN_SECONDS):
            self._subscription.reset = None  # it is told here
            return "broker-restarted"
        if any(tail.deleted > position.sequence for tail in self._tails):
            return "deleted"
        return "trimmed" if any(tail.trimmed > position.sequence for tail in self._tails) else None

    def _missed(self, sequence: int) -> bytes | None:
        """Return the updates behind a sequence in their order, or None where snapshots are the shorter way."""
        missed: list[StatisticsEntry] = []
        for tail in self._tails:
            entries = tail.mirror.missed_since(sequence) if tail.mirror is not None else None
            if entries is None:
                return None
            missed += entries
        missed.sort(key=lambda entry: entry.sequence)
        frames = b"".join(filter(None, map(self._frame, missed)))
        return frames or sse.move_cursor(self._id(self._follower.through))

    def _snapshots(self, skipped: int = 0) -> bytes:
        """Return a snapshot of every window; the last one alone carries the id, so a cut skips no part."""
        frames: list[bytes] = []
        for tail in self._tails:
            if tail.mirror is None:
                continue
            frame = self._query.selection.apply(tail.mirror.snapshot())
            frame["at"] = int(time.time() * 1000)
            if skipped:
                frame["skipped"] = skipped
            last = len(frames) + 1 == len(self._tails)
            id_ = self._id(self._follower.through) if last else None
            frames.append(sse.encode(encode_frame(frame), event="snapshot", id=id_))
        return b"".join(frames)

    def _frame(self, entry: Entry) -> bytes | None:
        """Return an entry as this query's frame, made once for all equal ones."""
        selection = self._query.selection
        if not isinstance(entry, StatisticsEntry) or entry.kind == "b":
            return None
        if selection not in entry.frames:
            entry.frames[selection] = self._encode(entry, selection)
        encoded: bytes | None = entry.frames[selection]
        return encoded

    def _encode(self, entry: StatisticsEntry, selection: Selection) -> bytes | None:
        data = entry.data
        if not selection.everything:
            frame = selection.apply(entry.frame)
            if entry.kind == "u" and not frame["data"] and not frame.get("gone"):
                return None
            data = encode_frame(frame)
        return sse.encode(data, event=_NAMES[entry.kind], id=self._id(entry.sequence))


class _Events:
    """The events of a topic, to one subscriber: out of the log at its own pace, then live."""

    def __init__(self, hub: Hub, subscription: Subscription, follower: Follower, query: EventsQuery) -> None:
        self._broker = hub.broker
        self._subscription = subscription
        self._follower = follower
        self._query = query
        self._log = query.log
        self._delivered = False
        self._after = 0
        self._position = follower.position

    def _id(self, sequence: int) -> str:
        return encode({self._follower.partition: Position(self._position.epoch, sequence)})

    def run(self) -> Iterator[bytes]:
        if self._query.cursor is None:
            self._subscription.collecting = True
            yield _opening()
        else:
            yield _opening()
            yield from self._start()
            yield from self._catch_up()
        while True:
            entries = self._subscription.take(self._query.heartbeat)
            if self._subscription.closing:
                return
            if self._subscription.reset is not None:
                yield from self._after_reset()
            elif self._subscription.lost:
                # Too slow for the backlog: what was missed is read from the log, at the pace of this reader.
                self._subscription.collecting = False
                self._subscription.clear()
                yield from self._seek(self._position.sequence)
                yield from self._catch_up()
            elif entries:
                frames = b"".join(self._frames(entry) for _, entry in entries if isinstance(entry, EventsEntry))
                if frames:
                    yield frames
            else:
                self._position = max(self._position, self._follower.position, key=lambda p: p.sequence)
                known = self._id(self._position.sequence) if self._delivered or self._query.cursor else None
                yield _heartbeat(self._query.visible_heartbeat, known)

    def _start(self) -> Iterator[bytes]:
        """Find the place of the cursor in the log; say so where it is gone."""
        if self._query.cursor == EARLIEST:
            self._position = Position(self._position.epoch, 0)
            return
        position = _position(self._query.cursor, self._follower.partition)
        tail = self._follower.tails[self._log]
        if position is None:
            yield from self._begin_again("trimmed")
        elif not self._follower.wait_for(position, JOIN_SECONDS):
            self._subscription.reset = None  # it is told here
            yield from self._begin_again("broker-restarted")
        elif tail.deleted > position.sequence:
            yield from self._begin_again("deleted")
        elif tail.trimmed > position.sequence:
            yield from self._begin_again("trimmed")
        else:
            yield from self._seek(position.sequence)

    def _seek(self, sequence: int) -> Iterator[bytes]:
        self._position = Position(self._position.epoch, sequence)
        while True:
            try:
                self._after = self._broker.seek_sequence(self._log.topic, sequence)
                return
            except PushError as error:
                yield from self._wait(error)

    def _begin_again(self, reason: str) -> Iterator[bytes]:
        """Send a reset and stand before what is left of the log, at most its last 1,000 events."""
        yield _reset(self._log.topic, reason)
        self._subscription.collecting = False
        self._subscription.clear()
        while True:
            try:
                read = self._broker.read(self._log.partition, {self._log: NOTHING})
                break
            except PushError as error:
                yield from self._wait(error)
        self._after = max(0, read.logs[self._log].last - REPLAY_AFTER_RESET)
        self._position = Position(read.epoch, 0)

    def _after_reset(self) -> Iterator[bytes]:
        reason, self._subscription.reset = self._subscription.reset or "", None
        yield from self._begin_again(reason)
        yield from self._catch_up()

    def _catch_up(self) -> Iterator[bytes]:
        """Yield what the log holds until the live entries follow on without a gap."""
        while self._subscription.reset is None and not self._subscription.closing:
            try:
                read = self._broker.read(self._log.partition, {self._log: self._after})
            except PushError as error:
                yield from self._wait(error)
                continue
            logged = read.logs[self._log]
            if read.epoch != self._position.epoch:
                yield from self._begin_again("broker-restarted")
                continue
            if self._position.sequence and logged.trimmed > self._position.sequence:
                yield from self._begin_again("deleted" if logged.deleted > self._position.sequence else "trimmed")
                continue
            # From here to collecting nothing yields, so no live entry falls between the read and it.
            joined = not logged.more and self._follower.through <= read.sequence and self._is_loaded()
            if joined:
                self._subscription.clear()
                self._subscription.collecting = True
            floor = self._after
            for entry in logged.entries:
                self._after = entry.last
                frames = self._frames(entry, floor)
                if frames:
                    yield frames
            if not logged.more:
                self._position = Position(read.epoch, max(self._position.sequence, read.sequence))
            if joined:
                return
            if not logged.more and not logged.entries:
                gevent.sleep(0.001)

    def _is_loaded(self) -> bool:
        tail = self._follower.tails.get(self._log)
        return tail is not None and not tail.fresh

    def _wait(self, error: PushError) -> Iterator[bytes]:
        """Keep the stream open while Redis is away."""
        if self._subscription.closing:
            raise BrokerUnavailable(DRAINING)
        yield sse.comment(error.title)
        gevent.sleep(_PAUSE)

    def _frames(self, entry: EventsEntry, floor: int = 0) -> bytes:
        """Return the entry's events behind the position and the offset ``floor``, and move the position behind them."""
        whole = entry.last_sequence_before >= self._position.sequence and entry.first > floor
        frames = self._encoded(entry)
        if whole:
            sent = frames
        else:
            sent = [
                frame
                for offset, frame in enumerate(frames, entry.first)
                if offset > floor and entry.sequence_of(offset) > self._position.sequence
            ]
        if entry.sequence > self._position.sequence:
            self._position = Position(self._position.epoch, entry.sequence)
        self._delivered = self._delivered or bool(sent)
        return b"".join(sent)

    def _encoded(self, entry: EventsEntry) -> list[bytes]:
        """Return one frame per event, made once for all who want them alike."""
        kind = (self._query.named, self._position.epoch)
        if kind not in entry.frames:
            entry.frames[kind] = [self._encode(entry, index) for index in range(len(entry.events))]
        encoded: list[bytes] = entry.frames[kind]
        return encoded

    def _encode(self, entry: EventsEntry, index: int) -> bytes:
        event, offset = entry.events[index], entry.first + index
        name = event.type if self._query.named and event.type not in sse.RESERVED_NAMES else "message"
        data = orjson.dumps(event.public(self._log.topic, offset, entry.arrival))
        return sse.encode(data, event=None if name == "message" else name, id=self._id(entry.sequence_of(offset)))
