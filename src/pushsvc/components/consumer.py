"""One partition of a group: reads its logs in turns, lets handlers handle them, and commits what they did.

A turn has no effect before its commit, which the fencing token of the lease guards. So a turn that is cut off anywhere
is repeated from what Redis holds.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from pushsvc.broker.broker import Broker
from pushsvc.broker.components import Changes, EmittedBatch, GroupOwner, StoredGroup
from pushsvc.broker.keys import Log
from pushsvc.broker.log import LogRead
from pushsvc.components import metrics
from pushsvc.components.child import HandlersLost
from pushsvc.components.failures import after_failure, after_refusal, after_timer_failure
from pushsvc.components.handlers import Handlers
from pushsvc.components.messages import Done, Entry, Gap, GroupOptions, Parked, Run, Timer
from pushsvc.components.outbox import Outbox, Refusal, gather
from pushsvc.components.parked import ParkedEvents, field_of
from pushsvc.errors import Fenced
from pushsvc.event import Event
from pushsvc.settings import TopicRules
from pushsvc.topic import matches

log = logging.getLogger(__name__)

_READ_BYTES = 256_000  # of logs that one turn reads
_READ_TOPICS = 64
_RETRIED, _CALLED = 100, 100  # parked events, and timers, of one turn
_MOST_TIMERS = 100_000  # of a group in a partition
_TOPICS_AT_ONCE = 500
_MOST_UNKNOWN, _OTHERS = 1_000, "… …"  # topics and types of a partition that are counted, and the name of all others
_NUMBERS = 1_000  # of commits and emitted batches per ms, on average


class Consumer:
    """Owns one partition of a group under a fencing token. Methods raise errors of ``pushsvc.errors``."""

    def __init__(
        self, broker: Broker, rules: TopicRules, handlers: Handlers, options: GroupOptions, partition: int, fence: int
    ) -> None:
        self._broker, self._handlers, self._options = broker, handlers, options
        self._store = broker.components
        self.partition = partition
        self.stopped = False
        self.lag = 0
        self._fence = fence
        self._owner: GroupOwner | None = None
        self._number = 0
        self._begin = 0
        self._positions: dict[str, tuple[int, int]] = {}
        self._unread: dict[str, int] = {}  # with the number of the news, which may come while a log is read
        self._news = 0
        self._lasts: dict[str, int] = {}
        self._states: dict[str, int] = {}  # keys with state by topic; none of topics that are absent
        self._full: set[str] = set()  # topics of which no more keys may have a state
        self.parked = ParkedEvents()
        self._timers, self._timer_due = 0, None  # type: int, int | None
        self._replays_wait = True
        self._outbox = Outbox(broker, rules, options.name)
        self._unknown: set[str] = set()  # topics and types that are counted by name
        self._alone = 0  # events to handle one at a time, to find the one that ends the process
        self._kinds = deque((self._retry, self._call_timers, self._read))
        self._now = 0

    # Begin

    def load(self) -> None:
        """Take over what Redis holds; a new group begins."""
        options, store = self._options, self._store
        self._handlers.forget(options.name, self.partition)
        stored = store.load(options.name, self.partition)
        self._owner = GroupOwner(options.name, self.partition, self._fence, stored.epoch)
        self._number, self._positions = stored.number, stored.positions
        self._timers, self._timer_due = stored.timers, stored.due
        self.parked = ParkedEvents(msgspec.msgpack.decode(value, type=Parked) for value in stored.parked.values())
        self._unknown = stored.unknown
        self._outbox.load(stored.outbox)
        every = self._broker.topics_of(self.partition)
        topics = [topic for topic in every if self.reads(topic)]
        if stored.begin is None:
            self._start(topics, stored)
        else:
            self._begin = stored.begin
            gone = [topic for topic in self._positions if topic not in every]
            for start in range(0, len(gone), _TOPICS_AT_ONCE):
                self._forget(gone[start : start + _TOPICS_AT_ONCE])
        counted = list(self._positions)
        self._states, self._full = {}, set()
        for start in range(0, len(counted), _TOPICS_AT_ONCE):
            some = counted[start : start + _TOPICS_AT_ONCE]
            counts = zip(some, store.count_states(options.name, some), strict=True)
            self._states |= {topic: count for topic, count in counts if count}
        self._note(topics)

    def _start(self, topics: Sequence[str], stored: StoredGroup) -> None:
        """Store where a new group begins."""
        beginning = self._options.from_beginning
        self._begin = 0 if beginning else stored.sequence
        changes = Changes()
        changes.set_fields(self._key("group"), {"begin": b"%d" % self._begin})
        for start in range(0, len(topics), _TOPICS_AT_ONCE):
            some = topics[start : start + _TOPICS_AT_ONCE]
            for topic, found in zip(some, self._broker.metadata([Log(topic) for topic in some]), strict=True):
                if "created" in found:
                    offset = int(found.get("first", 1)) - 1 if beginning else int(found.get("last", 0))
                    self._positions[topic] = offset, int(found["created"])
        self._commit_positions(changes, self._positions)
        self._commit(changes)

    def reads(self, topic: str) -> bool:
        """Return whether the group reads a topic."""
        return any(matches(pattern, topic) for pattern in self._options.patterns)

    def changed(self, topics: Iterable[str]) -> None:
        """Note that logs have grown."""
        self._note(topic for topic in topics if self.reads(topic))

    def _note(self, topics: Iterable[str]) -> None:
        self._news += 1
        self._unread.update(dict.fromkeys(topics, self._news))

    def replay(self) -> None:
        """Note that events wait to be tried again."""
        self._replays_wait = True

    @property
    def has_begun(self) -> bool:
        """Whether it has taken over what Redis holds; a new group has then stored where it begins."""
        return self._owner is not None

    @property
    def states(self) -> int:
        """How many keys have a state."""
        return sum(self._states.values())

    @property
    def now(self) -> int:
        """The time (ms) of Redis at the last turn."""
        return self._now

    @property
    def is_due_at(self) -> int | None:
        """The time (ms) of the next turn; 0: at once, None: when something changes."""
        if ((self._unread or self._replays_wait) and self.parked.room) or self._outbox.is_waiting:
            return 0
        dues = [self.parked.next_due(), self._timer_due, self._outbox.flush_at]
        return min((due for due in dues if due is not None), default=None)

    # Turns

    def turn(self) -> bool:
        """Do what is due; return whether there was anything. Raise Fenced if another worker owns the partition."""
        self._now = self._broker.time(self.partition)
        if self._owner is None:
            self.load()
        self._send()
        if self.stopped:
            return False
        if self._replays_wait and self.parked.room and self._take_replays():
            return True
        run = self._next_run()
        if run is None:
            if self._outbox.flush_at is not None and self._outbox.flush_at <= self._now:
                self._commit(Changes())
            return False
        if self._alone:
            run = _first_of(run)
        done = self._run(run)
        if done is None:
            return True
        try:
            self._store_turn(run, done)
        except BaseException:
            self._owner = None  # the process of the handlers has states that Redis may not have
            raise
        self._send()
        return True

    def _next_run(self) -> Run | None:
        """Return what is due: parked events of one key, timers, or new events. They take turns: none can hold up the
        others."""
        run = Run(
            self._options.name, self.partition, self._now, [], [], [], [], {}, self.parked.room,
            max(0, _MOST_TIMERS - self._timers), self._states,
        )  # fmt: skip
        for _ in range(len(self._kinds)):
            kind = self._kinds.popleft()
            self._kinds.append(kind)
            kind(run)
            if run.parked or run.due or run.gaps or run.entries:
                return run
        return None

    def _retry(self, run: Run) -> None:
        run.parked = self.parked.due(self._now, _RETRIED)

    def _call_timers(self, run: Run) -> None:
        if self._timer_due is not None and self._timer_due <= self._now:
            found = self._store.due_timers(self._options.name, self.partition, self._now, _CALLED)
            run.due = [msgspec.msgpack.decode(one, type=Timer) for one in found]
            if not run.due:
                self._timers, self._timer_due = self._store.next_timer(self._options.name, self.partition)

    def _run(self, run: Run) -> Done | None:
        """Let the handlers handle something; None if they were lost, and it has to be repeated piece by piece."""
        name = self._options.name

        def states(topic: str, keys: list[str]) -> list[bytes | None]:
            return self._store.states(name, topic, keys)

        try:
            done = self._handlers.run(run, states, self._options.timeout, lambda: self.stopped)
            if done is not None and self.stopped:
                self._handlers.forget(name, self.partition)  # another consumer of the partition must not see its states
                return None
            return done
        except HandlersLost as error:
            if _size(run) > 1:
                self._alone = _size(run) + 1
                return None
            return self._blame(run, str(error))
        finally:
            self._alone = max(0, self._alone - 1)

    def _blame(self, run: Run, reason: str) -> Done:
        """Return the outcome of the only thing that the process did when it was lost."""
        done, options = Done(failures=1), self._options
        if run.parked:
            found = after_failure(run.parked[0], options, self._now, reason)
            if isinstance(found, Parked):
                done.failed = found
            else:
                done.emitted, done.dead, done.retried = [found], 1, 1
        elif run.due:
            timer = after_timer_failure(run.due[0], options, self._now, reason, "")
            done.timers_done = 1
            done.timers[run.due[0].id] = timer if isinstance(timer, Timer) else None
            if not isinstance(timer, Timer):
                done.emitted, done.dead = [timer], 1
        elif run.gaps:
            done.gaps_done = 1
        else:
            (entry,) = run.entries
            if not entry.data:  # a correction, which no handler sees
                done.positions[entry.topic] = entry.first
                return done
            event = Parked(entry.topic, entry.first, entry.arrival, entry.data, key=Event.decode(entry.data).key)
            found = after_failure(event, options, self._now, reason)
            done.positions[entry.topic] = entry.first
            if isinstance(found, Parked):
                done.parked = [found]
            else:
                done.emitted, done.dead = [found], 1
        return done

    # Reading

    def _read(self, run: Run) -> None:
        """Add the next entries of logs, and gaps before them."""
        if not (self._unread and run.parks):
            return
        run.held = self.parked.held()
        topics = list(self._unread)[:_READ_TOPICS]
        self._seek([topic for topic in topics if topic not in self._positions])
        after = {Log(topic): self._positions[topic][0] for topic in topics}
        news = self._news
        read = self._broker.read(self.partition, after, budget=_READ_BYTES)
        for topic in topics:
            if self._take(run, topic, read.logs[Log(topic)]) and self._unread[topic] <= news:
                del self._unread[topic]

    def _take(self, run: Run, topic: str, found: LogRead) -> bool:
        """Add the entries and the gap that a read found; return whether there are none."""
        offset, created = self._positions[topic]
        if not found.created:
            self._forget([topic])
            return True
        if created not in (0, found.created):
            self._renew(topic)
        if found.last < offset:
            # The topic was deleted so long ago that its offsets start again.
            self._positions[topic] = 0, found.created
            return False
        self._positions[topic] = offset, found.created
        self._lasts[topic] = found.last
        first = found.entries[0].first if found.entries else found.last + 1
        if first > offset + 1:
            run.gaps.append(Gap(topic, offset + 1, first - 1))
        for entry in found.entries:
            run.entries.append(Entry(topic, entry.first, offset, entry.arrival, entry.data))
        return not found.entries and first <= offset + 1

    def _seek(self, topics: Sequence[str]) -> None:
        """Find where topics without a position begin: with the events after the group began."""
        if topics:
            offsets = self._broker.seek_sequences([(topic, self._begin) for topic in topics])
            self._positions |= {topic: (offset, 0) for topic, offset in zip(topics, offsets, strict=True)}

    def _forget(self, topics: Sequence[str]) -> None:
        """Forget the positions and the states of topics that were deleted."""
        changes = Changes()
        for topic in topics:
            changes.remove(self._store.keys.component_states(self._options.name, topic))
        changes.remove_fields(self._key("positions"), topics)
        self._commit(changes)
        for topic in topics:
            self._positions.pop(topic, None)
            self._lasts.pop(topic, None)
            self._states.pop(topic, None)
            self._handlers.forget(self._options.name, self.partition, topic)

    def _renew(self, topic: str) -> None:
        """Forget the states of a topic that was deleted and created again."""
        changes = Changes()
        changes.remove(self._store.keys.component_states(self._options.name, topic))
        self._commit(changes)
        self._states.pop(topic, None)
        self._handlers.forget(self._options.name, self.partition, topic)

    def _take_replays(self) -> bool:
        """Park events that are to be tried again, and whose turn is now; return whether there are any."""
        found = self._store.replays(self._options.name, self.partition, _RETRIED)
        self._replays_wait = bool(found)
        if not found:
            return False
        events = [msgspec.msgpack.decode(one, type=Parked) for one in found]
        changes = Changes()
        self._park(changes, events)
        changes.drop_first(self._key("replays"), len(events))
        self._commit(changes)
        for event in events:
            self.parked.put(event)
        return True

    # Commits

    def _store_turn(self, run: Run, done: Done) -> None:
        name, store = self._options.name, self._store
        changes, positions = Changes(), {}
        trimmed = 0
        for gap in run.gaps[: done.gaps_done]:
            trimmed += gap.count
            positions[gap.topic] = gap.last, self._positions[gap.topic][1]
        for topic, offset in done.positions.items():
            positions[topic] = offset, self._positions[topic][1]
        self._commit_positions(changes, positions)
        for topic, states in done.states.items():
            changes.set_fields(store.keys.component_states(name, topic), states)
        retried = run.parked[: done.retried]
        changes.remove_fields(self._key("parked"), [field_of(event) for event in retried])
        again = [*done.parked, *([done.failed] if done.failed is not None else [])]
        self._park(changes, again)
        self._set_timers(changes, done)
        for topic, counts in done.unknown.items():
            for kind, count in counts.items():
                changes.count(self._key("unknown"), self._name_unknown(f"{topic} {kind}"), count)
        for what, amount in (
            ("handled", done.handled), ("failures", done.failures), ("dead", done.dead), ("trimmed", trimmed),
        ):  # fmt: skip
            changes.count(self._key("group"), what, amount)
        self._commit(changes, gather(done.emitted))
        self._positions |= positions
        self._count_states(done)
        for event in retried:
            self.parked.remove(event)
        for event in again:
            self.parked.put(event)
        if done.timers:
            self._timers, self._timer_due = store.next_timer(name, self.partition)
        self.lag = sum(max(0, last - self._positions[topic][0]) for topic, last in self._lasts.items())
        self._count(done, trimmed)

    def _count_states(self, done: Done) -> None:
        """Count the keys with state, and log when a topic has as many as allowed."""
        for topic, more in done.new_states.items():
            count = self._states[topic] = self._states.get(topic, 0) + more
            if count < self._options.max_states:
                self._full.discard(topic)
            if not count:
                del self._states[topic]
        for topic in done.refused_states.keys() - self._full:
            self._full.add(topic)
            log.warning(
                "group %s: %d keys of %s have a state, and max_states allows no more: events of other keys fail",
                self._options.name, self._states.get(topic, 0), topic,
            )  # fmt: skip

    def _name_unknown(self, name: str) -> str:
        """Return under which name events of an unknown type are counted."""
        if name not in self._unknown:
            if len(self._unknown) >= _MOST_UNKNOWN:
                return _OTHERS
            self._unknown.add(name)
        return name

    def _commit(self, changes: Changes, emitted: Sequence[EmittedBatch] = ()) -> None:
        """Store changes, and events that they emit. Raise Fenced; after any error what Redis holds is unknown."""
        if self._owner is None:
            raise Fenced("nothing is owned")
        number = max(self._number + max(1, len(emitted)), self._now * _NUMBERS)
        if emitted:
            changes.set_fields(self._key("outbox"), {str(number): msgspec.msgpack.encode(emitted)})
        changes.remove_fields(self._key("outbox"), self._outbox.sent)
        try:
            self._store.commit(self._owner, self._number, number, changes)
        except BaseException:
            self._owner = None
            raise
        self._number = number
        self._outbox.sent, self._outbox.flush_at = [], None
        self._outbox.add(number, list(emitted))

    def _send(self) -> None:
        while self._owner is not None:
            refusal = self._outbox.send(self._owner, self._now)
            if refusal is None:
                return
            self._bury(refusal)

    def _bury(self, refusal: Refusal) -> None:
        """Move emitted events that their log refused to the topic of dead events, in one commit."""
        name, topic, reason = self._options.name, refusal.topic, refusal.reason
        dead = [after_refusal(topic, line, name, self._now, reason) for line in refusal.lines]
        changes = Changes()
        changes.set_fields(self._key("outbox"), {str(refusal.number): msgspec.msgpack.encode(refusal.rest)})
        changes.count(self._key("group"), "dead", len(dead))
        self._commit(changes, gather(dead))
        self._outbox.replace(refusal)
        metrics.DEAD.labels(name).inc(len(dead))

    def _commit_positions(self, changes: Changes, positions: Mapping[str, tuple[int, int]]) -> None:
        fields = {topic: f"{offset} {created}".encode() for topic, (offset, created) in positions.items()}
        changes.set_fields(self._key("positions"), fields)

    def _park(self, changes: Changes, events: Sequence[Parked]) -> None:
        fields = {field_of(event): msgspec.msgpack.encode(event) for event in events}
        changes.set_fields(self._key("parked"), fields)

    def _set_timers(self, changes: Changes, done: Done) -> None:
        fields = {name: msgspec.msgpack.encode(timer) if timer else b"" for name, timer in done.timers.items()}
        changes.set_fields(self._key("timers"), fields)
        due = self._key("timers-due")
        changes.remove_times(due, [name for name, timer in done.timers.items() if timer is None])
        changes.set_times(due, {name: timer.due for name, timer in done.timers.items() if timer is not None})

    def _key(self, what: str) -> str:
        return self._store.keys.group(self.partition, self._options.name, what)

    def _count(self, done: Done, trimmed: int) -> None:
        name = self._options.name
        metrics.HANDLED.labels(name).inc(done.handled)
        metrics.SECONDS.labels(name).inc(done.seconds)
        for metric, amount in (
            (metrics.FAILURES, done.failures), (metrics.DEAD, done.dead), (metrics.TRIMMED, trimmed),
            (metrics.REFUSED_REPLIES, done.refused_replies),
            (metrics.REFUSED_STATES, sum(done.refused_states.values())),
            (metrics.UNKNOWN, sum(sum(counts.values()) for counts in done.unknown.values())),
        ):  # fmt: skip
            if amount:
                metric.labels(name).inc(amount)


def _size(run: Run) -> int:
    """Return how many events, timers and gaps there are to handle."""
    lines = sum(entry.data.count(b"\n") + 1 for entry in run.entries)
    return len(run.parked) + len(run.due) + len(run.gaps) + lines


def _first_of(run: Run) -> Run:
    """Return the first thing alone."""
    run.parked, run.due, run.gaps = run.parked[:1], run.due[:1], run.gaps[:1]
    if run.parked or run.due or run.gaps:
        run.entries = []
        return run
    entry = run.entries[0]
    offset = max(entry.first, entry.after + 1)
    line = entry.data.split(b"\n")[offset - entry.first]
    run.entries = [Entry(entry.topic, offset, offset - 1, entry.arrival, line)]
    return run
