"""Evaluates the rules of the partitions that this process owns, between two reads of a partition.

A transition is stored with its event and the fencing token of the partition before anything else learns of it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from msgspec.structs import replace
from prometheus_client import Counter

from pushsvc.aggregate.reading import Reading, RowsWanted
from pushsvc.alerts.condition import TRUE, EventTest, leaves, truths
from pushsvc.alerts.rule import AlertRule, InvalidAlert, check_rule
from pushsvc.alerts.states import AlertStates, Change, State
from pushsvc.broker.alerts import AlertEvent, StoredState, conditions_of
from pushsvc.broker.broker import Broker
from pushsvc.broker.keys import Log
from pushsvc.broker.log import NO_ENTRIES, EventsEntry, LogRead
from pushsvc.clock import format_time
from pushsvc.event import Limits
from pushsvc.settings import TopicRules, TopicSettings
from pushsvc.topic import partition_of
from pushsvc.worker.alerts.sources import EventSource, RowSource
from pushsvc.worker.held_alerts import HeldAlerts, Turn
from pushsvc.worker.partition import Partition

log = logging.getLogger(__name__)

TRANSITIONS = Counter("pushsvc_alert_transitions_total", "Alerts that were raised and resolved", ["type"])
REFUSED_ROWS = Counter("pushsvc_alert_rows_refused_total", "Rows of alerts without a state: there are too many")

_TICK = 250  # ms between two scans of a log, and two looks at a topic that is not ready
_PATIENCE = 1_000  # ms between two looks at a topic that does not exist
_PAUSE = 5_000  # ms after a failure
_REST = 20  # times the duration of an evaluation: for so long, new entries do not bring the next one
_SCANNED_BYTES = 256_000  # of a log in one turn
_MOST_MATCHES = 1_000  # events of one turn that raise one rule
_MOST_UNSENT = 10_000  # events of a partition, beyond which rules about events wait
_SAVED_EVENTS, _SAVED_AFTER = 10_000, 60_000  # events, and ms, after which a position without matches is stored
_LONGEST_ID = Limits().id


@dataclass(slots=True)
class _Commit:
    """What one evaluation changes."""

    states: dict[tuple[str, str | None], StoredState | int | None] = field(default_factory=dict)
    events: list[AlertEvent] = field(default_factory=list)
    changes: list[tuple[AlertStates, list[Change]]] = field(default_factory=list)


class AlertEvaluator:
    """Knows all rules: ``fixed`` are those of the settings, the others are in Redis.

    ``topics`` are those that must be counted, although nobody may ask for their statistics.
    """

    def __init__(self, broker: Broker, topic_rules: TopicRules, fixed: Sequence[AlertRule] = ()) -> None:
        self._broker = broker
        self._topic_rules = topic_rules
        self._fixed = {rule.name: rule for rule in fixed}
        self._rules: dict[int, dict[str, AlertRule]] | None = None
        self._faulty: set[str] = set()
        self.topics: set[str] = set()
        self.by_name: dict[str, AlertRule] = {}

    # Rules

    def refresh(self, partitions: Iterable[Partition]) -> bool:
        """Read the rules; return whether they changed. Raise as ``AlertStore.definitions``."""
        found = {**self._broker.alerts.definitions(), **self._fixed}
        if self._rules is not None and found == self.by_name:
            return False
        self.by_name = found
        sound = [rule for rule in found.values() if self._is_sound(rule)]
        self._rules = {}
        for rule in sound:
            self._rules.setdefault(partition_of(rule.topic), {})[rule.name] = rule
        self.topics.clear()  # partitions hold this object
        self.topics.update(rule.topic for rule in sound if not rule.is_of_events)
        for partition in partitions:
            self._schedule(partition)
        return True

    def _schedule(self, partition: Partition) -> None:
        """Let the rules of a partition be looked at soon, if there are any."""
        if (held := partition.alerts) is not None:
            known = held.states or held.unclaimed or held.positions or partition.number in (self._rules or ())
            held.wake_at = 0 if known else None

    def _is_sound(self, rule: AlertRule) -> bool:
        try:
            check_rule(rule, self._topic_rules.settings_of(rule.topic))
        except InvalidAlert as error:
            if rule.name not in self._faulty:
                log.warning("alert %s is not evaluated: %s: %s", rule.name, error.member, error)
            self._faulty.add(rule.name)
            return False
        self._faulty.discard(rule.name)
        return True

    # Partitions

    def load(self, partition: Partition) -> None:
        """Read what Redis has of a partition's alerts, unless it is known."""
        if partition.alerts is None:
            partition.alerts = HeldAlerts.of(self._broker.alerts.load(partition.number))
            self._schedule(partition)

    @staticmethod
    def pause(partition: Partition) -> None:
        """Leave the alerts of a partition alone for a while, because they failed."""
        if (held := partition.alerts) is not None:
            held.wake_at = held.paused_until = partition.now + _PAUSE

    def is_due(self, partition: Partition) -> bool:
        """Return whether a rule may have to be evaluated."""
        held = partition.alerts
        if held is None or held.wake_at is None or self._rules is None:
            return False
        return held.wake_at <= partition.now

    def evaluate(self, partition: Partition, names: Collection[str], lagging: Collection[str], now: int) -> None:
        """Evaluate the rules whose turn it is at ``now`` (ms). ``names`` are topics that were read, ``lagging`` those
        that have more. Raise Fenced, or errors of the connection; the states are then read again."""
        held, owner = partition.alerts, partition.owner
        if held is None or owner is None or self._rules is None or now < held.paused_until:
            return
        rules = self._rules
        own = rules.get(partition.number, {})
        if not (own or held.states or held.unclaimed or held.positions):
            held.wake_at = None
            return
        commit = _Commit()
        try:
            self._take_over(held, own, commit, now)
            due = []
            for rule in own.values():
                turn = held.turns.setdefault(rule.name, Turn())
                turn.changed |= rule.topic in names
                if turn.at <= now:
                    due.append(rule)
            self._scan_all(partition, held, [rule for rule in due if rule.is_of_events], commit, now)
            for rule in due:
                if not rule.is_of_events:
                    self._take_turn(partition, held, rule, held.turns[rule.name], lagging, commit, now)
            # The outbox has no order of its own: a successor must send them in this one.
            commit.events = [replace(event, number=held.next_number(now)) for event in commit.events]
            if commit.states or commit.events:
                self._broker.alerts.commit(owner, commit.states, commit.events)
        except BaseException:
            partition.alerts = None  # the states in Redis are unknown
            raise
        for states, changes in commit.changes:
            states.apply(changes)
        for event in commit.events:
            TRANSITIONS.labels(type=event.type).inc()
            held.outbox[event.id] = event
        held.wake_at = min((turn.at for turn in held.turns.values()), default=None)
        if self._rules is not rules:  # they changed while Redis was asked
            self._schedule(partition)

    def _take_over(self, held: HeldAlerts, own: dict[str, AlertRule], commit: _Commit, now: int) -> None:
        """Give each rule its rows, and resolve the rows that belong to no rule any more."""
        for name in [name for name in held.states if name not in own]:
            self._drop(held, name, commit, now)
        for name, rule in own.items():
            states = held.states.get(name)
            if states is not None and states.rule == rule:
                continue
            if states is not None and states.rule.is_same_condition(rule):
                states.rule = rule
                held.turns.pop(name, None)
                continue
            if states is not None:
                self._drop(held, name, commit, now)
            rows = held.unclaimed.pop(name, {})
            same = {row: one for row, one in rows.items() if one.rule == conditions_of(rule)}
            self._resolve(held, name, {row: one for row, one in rows.items() if row not in same}, commit, now)
            held.states[name] = AlertStates(rule, {row: one.to_row() for row, one in same.items()})
            if not rule.is_of_events and held.positions.pop(name, None) is not None:
                commit.states.setdefault((name, None), None)
        for name in list(held.unclaimed):
            self._resolve(held, name, held.unclaimed.pop(name), commit, now)
        for name in [name for name in held.positions if name not in own]:
            del held.positions[name]
            commit.states[name, None] = None

    def _drop(self, held: HeldAlerts, name: str, commit: _Commit, now: int) -> None:
        states = held.states.pop(name)
        held.turns.pop(name, None)
        rows = {row: StoredState.of(one, states.rule) for row, one in states.rows.items()}
        self._resolve(held, name, rows, commit, now)
        if held.positions.pop(name, None) is not None:
            commit.states[name, None] = None

    @staticmethod
    def _resolve(
        held: HeldAlerts, name: str, rows: dict[str | None, StoredState], commit: _Commit, now: int
    ) -> None:  # fmt: skip
        """End the states of rows: the rule was removed or has other conditions."""
        for row, stored in rows.items():
            commit.states[name, row] = None
            if stored.state == State.RAISED:
                topic, when = stored.rule[:2]
                data = _data(name, topic or "", when or "", row, None, stored.since)
                commit.events.append(_event(name, row or "", held.next_number(now), now, "resolved", data))

    def _take_turn(
        self, partition: Partition, held: HeldAlerts, rule: AlertRule, turn: Turn, lagging: Collection[str],
        commit: _Commit, now: int,
    ) -> None:  # fmt: skip
        settings = self._topic_rules.settings_of(rule.topic)
        begun = time.monotonic()
        wait = self._judge(partition, held, rule, settings, lagging, commit, now)
        took = int(1_000 * (time.monotonic() - begun))
        if wait:
            turn.earliest = turn.latest = now + wait
            return
        turn.changed, turn.earliest = False, now + max(settings.cadence, _REST * took)
        states = held.states[rule.name]
        turn.latest = max(turn.earliest, min(_next_pane(rule, settings, now), states.wake_at() or now + _PATIENCE * 60))

    # Statistics

    def _judge(
        self, partition: Partition, held: HeldAlerts, rule: AlertRule, settings: TopicSettings,
        lagging: Collection[str], commit: _Commit, now: int,
    ) -> int:  # fmt: skip
        """Evaluate a rule about statistics; return 0, or after how many ms to try again."""
        reading: Reading | None = None
        grouping = settings.key.index(rule.by) if rule.by in settings.key else 0
        topic = partition.topics.get(rule.topic)
        if topic is not None:
            passed = max(topic.silent_through, topic.rebuilt_through)
            if rule.topic in lagging or topic.counts.offset < passed:
                return _TICK
            reading = topic.engine.engine.read_rows(rule.topic, _rows_wanted(rule, grouping))
        elif rule.topic in partition.unread or rule.topic in partition.waiting:
            return _TICK
        elif rule.topic in partition.dormant or "created" in self._broker.metadata([Log(rule.topic)])[0]:
            partition.unread.add(rule.topic)
            return _TICK
        states = held.states[rule.name]
        names: list[str | None] = [None]
        if rule.by is not None:
            present: list[str] = [] if reading is None else reading.keys(grouping)
            names = [*present, *(states.rows.keys() - set(present))]
        changes = states.evaluate(names, RowSource(reading, names, grouping), now) if names else []
        REFUSED_ROWS.inc(states.refused)
        for change in changes:
            after = None if change.after is None else StoredState.of(change.after, rule)
            commit.states[rule.name, change.row] = after
            if change.kind is not None:
                data = _data(rule.name, rule.topic, rule.when, change.row, change.value, change.since)
                number = held.next_number(now)
                commit.events.append(_event(rule.name, change.row or "", number, now, change.kind, data))
        commit.changes.append((states, changes))
        return 0 if reading is not None else _PATIENCE

    # Events

    def _scan_all(
        self, partition: Partition, held: HeldAlerts, rules: Sequence[AlertRule], commit: _Commit, now: int
    ) -> None:  # fmt: skip
        """Look for events that raise rules, after those that were scanned before; one read is for all of them."""
        after: dict[Log, int] = {}
        for rule in rules:
            turn = held.turns[rule.name]
            turn.changed, turn.latest = False, now + _TICK
            # The least position of a topic; a new rule of the settings first learns where its log ends.
            position = held.position(rule)
            position = NO_ENTRIES if position is None else position
            after[Log(rule.topic)] = min(position, after.get(Log(rule.topic), position))
        if not after or len(held.outbox) > _MOST_UNSENT:
            return
        read = self._broker.read(partition.number, after, budget=_SCANNED_BYTES)
        for rule in rules:
            self._scan(held, rule, read.logs[Log(rule.topic)], commit, now)

    def _scan(self, held: HeldAlerts, rule: AlertRule, read: LogRead, commit: _Commit, now: int) -> None:
        position = held.position(rule)
        before = len(commit.events)
        if position is None or read.last < position:
            position = read.last
        for entry in read.entries:
            position = self._matches(rule, entry, position, commit, now)
            if len(commit.events) - before >= _MOST_MATCHES:
                break
        full = len(commit.events) - before >= _MOST_MATCHES
        if read.more or full:
            held.turns[rule.name].latest = now
        held.positions[rule.name] = position
        saved, when = held.stored_positions.get(rule.name, (None, now))
        late = saved is None or position - saved > _SAVED_EVENTS or (position != saved and now - when > _SAVED_AFTER)
        if late or len(commit.events) > before:
            commit.states[rule.name, None] = position
            held.stored_positions[rule.name] = (position, now)

    @staticmethod
    def _matches(rule: AlertRule, entry: EventsEntry, position: int, commit: _Commit, now: int) -> int:
        """Add the events of an entry, after an offset, that raise a rule; return the last offset that was looked at."""
        if entry.correction is not None:
            return max(position, entry.last)  # the rule looked at the event as it was published
        first = next(leaf.field for leaf in leaves(rule.condition) if isinstance(leaf, EventTest))
        found = truths(rule.condition, EventSource(entry.events)) == TRUE
        for offset, event, meets in zip(range(entry.first, entry.last + 1), entry.events, found, strict=True):
            if offset <= position or not meets:
                continue
            value = event.data.get(first)
            number = value if isinstance(value, int | float) and not isinstance(value, bool) else None
            since = entry.arrival if event.time is None else event.time
            data = _data(rule.name, rule.topic, rule.when, event.key, number, since) | {"event": f"${offset}"}
            commit.events.append(_event(rule.name, rule.topic, offset, now, "raised", data))
        return max(position, entry.last)


def _rows_wanted(rule: AlertRule, grouping: int) -> RowsWanted:
    statistics = dict.fromkeys((one.name, one.field, one.window) for one in rule.statistics)
    named = {one.key for one in rule.statistics if one.key is not None}
    return RowsWanted(grouping, list(statistics), sorted(named) if rule.by is None else None)


def _next_pane(rule: AlertRule, settings: TopicSettings, now: int) -> int:
    """Return the ms at which a window of a rule moves next."""
    windows = [settings.window(statistic.window) for statistic in rule.statistics]
    panes = [max(_TICK, window.pane) for window in windows if window is not None and window.length]
    return min((now // pane + 1) * pane for pane in panes) if panes else now + 60 * _PATIENCE


def _data(name: str, topic: str, when: str, row: str | None, value: float | None, since: int) -> dict[str, Any]:
    return {"alert": name, "topic": topic, "row": row, "value": value, "when": when, "since": format_time(since)}


def _event(name: str, row: str, number: int, now: int, kind: str, data: dict[str, Any]) -> AlertEvent:
    """Return an event whose id is the alert, the row and a number; a long row is there by its digest."""
    id = f"{name}/{row}/{number}"
    if len(id) > _LONGEST_ID:
        id = f"{name}/{blake2b(row.encode(), digest_size=16).hexdigest()}/{number}"
    return AlertEvent(id, now, kind, name, data)
