"""Alerts in Redis: their definitions, the states of their rows, and the events that are still to be sent.

A transition is stored in the partition of its topic, together with the event that tells of it, by the owner of the
partition and with its fencing token. The event then goes to the topic of alerts, by an id of its own, and leaves the
outbox. So a successor sends what its predecessor may not have sent, and an event that was sent twice is stored once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import msgspec
import orjson

from pushsvc.alerts.rule import MOST_ALERTS, AlertRule, InvalidAlert, read_rule
from pushsvc.alerts.states import RowState, State
from pushsvc.broker import script
from pushsvc.broker.checkpoints import Owner
from pushsvc.broker.connection_pool import Connections
from pushsvc.broker.keys import Keys
from pushsvc.broker.script import RUN, AlertCommitArguments
from pushsvc.errors import Fenced, TooManyAlerts

_WEBHOOKS = "$webhooks"  # in the place of an alert's name
_AT_ONCE = 500  # states and events of one call


class StoredState(msgspec.Struct, frozen=True, omit_defaults=True):
    """The state of a row. ``rule`` has the conditions that it belongs to (topic, when, until, by)."""

    state: str
    since: int
    value: float | None = None
    rule: tuple[str | None, ...] = ()

    @classmethod
    def of(cls, row: RowState, rule: AlertRule) -> StoredState:
        return cls(row.state.value, row.since, row.value, conditions_of(rule))

    def to_row(self) -> RowState:
        return RowState(State(self.state), self.since, self.value)


class AlertEvent(msgspec.Struct, frozen=True):
    """What is sent: an event of the topic of alerts that happened at the ms ``time``.

    ``number`` orders the events of a partition that have the same time.
    """

    id: str
    time: int
    type: str
    key: str
    data: dict[str, Any]
    number: int = 0


@dataclass(frozen=True, slots=True)
class StoredAlerts:
    """What a partition holds: states by alert and row, positions of event rules, and the events to send."""

    states: dict[str, dict[str | None, StoredState]]
    positions: dict[str, int]
    outbox: dict[str, AlertEvent]
    delivered: int | None = None  # the offset of the topic of alerts up to which webhooks were delivered


def conditions_of(rule: AlertRule) -> tuple[str | None, ...]:
    """Return what identifies the conditions of a rule: with others, its states mean something else."""
    return (rule.topic, rule.when, rule.until, rule.by)


class AlertStore:
    """Methods raise errors of ``pushsvc.errors``."""

    def __init__(self, keys: Keys, connections: Connections, most: int = MOST_ALERTS) -> None:
        self.channel = keys.alerts
        self._keys = keys
        self._connections = connections
        self._most = most

    # Definitions

    def define(self, rule: AlertRule) -> bool:
        """Store an alert in place of an earlier one; return whether there was one. Raise TooManyAlerts."""
        table = {name: value for name, value in rule.public().items() if value is not None and name != "name"}
        if rule.after is not None:
            table["after"] = rule.after
        return self._define(rule.name, orjson.dumps(table))

    def remove(self, name: str) -> bool:
        """Remove an alert; return whether there was one."""
        return self._define(name, b"")

    def _define(self, name: str, definition: bytes) -> bool:
        arguments = [self._connections.publish_command, self.channel, name, definition, self._most]
        before = self._connections.call(script.ALERT_DEFINE, [self._keys.alerts], arguments)
        if before == b"full":
            raise TooManyAlerts(f"there are {self._most} alerts, which is the limit; nothing was stored")
        return bool(before)

    def definitions(self) -> dict[str, AlertRule]:
        """Return all alerts that were defined by requests. One that cannot be read is left out."""
        flat = self._connections.command("HGETALL", self._keys.alerts)
        found = {}
        for name, text in zip(flat[::2], flat[1::2], strict=True):
            try:
                table = orjson.loads(text)
                after = table.pop("after", None)
                found[name.decode()] = replace(read_rule(name.decode(), table), after=after)
            except (InvalidAlert, ValueError):
                continue  # a later version wrote it
        return found

    # States

    def load(self, partition: int) -> StoredAlerts:
        """Return what a partition holds."""
        states, outbox = self._connections.commands([
            ("HGETALL", self._keys.alert_states(partition)), ("HGETALL", self._keys.alert_outbox(partition)),
        ])  # fmt: skip
        found: dict[str, dict[str | None, StoredState]] = {}
        positions = {}
        for field, value in zip(states[::2], states[1::2], strict=True):
            name, row = orjson.loads(field)
            if value.isdigit():
                positions[name] = int(value)
            else:
                found.setdefault(name, {})[row] = msgspec.json.decode(value, type=StoredState)
        events = [msgspec.json.decode(value, type=AlertEvent) for value in outbox[1::2]]
        events.sort(key=lambda event: (event.time, event.number))
        delivered = positions.pop(_WEBHOOKS, None)
        return StoredAlerts(found, positions, {event.id: event for event in events}, delivered)

    def commit(
        self, owner: Owner, states: Mapping[tuple[str, str | None], StoredState | int | None],
        events: Sequence[AlertEvent] = (),
    ) -> None:  # fmt: skip
        """Store states by alert and row (None: forget it; a number is the position of a rule about events), and the
        events of their transitions, all or nothing. Raise Fenced."""
        pairs: list[tuple[str | bytes, str | bytes]] = []
        for name_row, value in states.items():
            text = b"" if value is None else b"%d" % value if isinstance(value, int) else msgspec.json.encode(value)
            pairs.append((orjson.dumps(name_row), text))
        keys = [
            self._keys.partition(owner.partition), self._keys.alert_states(owner.partition),
            self._keys.alert_outbox(owner.partition),
        ]  # fmt: skip
        arguments = AlertCommitArguments(RUN, owner.fence, owner.epoch, len(pairs))
        flat = [word for pair in pairs for word in pair]
        flat += [word for event in events for word in (event.id, msgspec.json.encode(event))]
        reply = self._connections.call(script.ALERT_COMMIT, keys, [*arguments, *flat])
        if reply[0] != b"ok":
            raise Fenced(f"another aggregator owns partition {owner.partition}, or Redis was restarted")

    def commit_delivered(self, owner: Owner, offset: int) -> None:
        """Store the offset of the topic of alerts up to which webhooks were delivered. Raise Fenced."""
        self.commit(owner, {(_WEBHOOKS, None): offset})

    def unsent(self, partition: int, ids: Sequence[str]) -> set[str]:
        """Return which of these events are in the outbox."""
        found = self._connections.command("HMGET", self._keys.alert_outbox(partition), *ids)
        return {id for id, event in zip(ids, found, strict=True) if event is not None}

    def sent(self, partition: int, ids: Iterable[str]) -> None:
        """Remove events from the outbox: they are in the log."""
        ids = iter(ids)
        while some := list(islice(ids, _AT_ONCE)):
            self._connections.command("HDEL", self._keys.alert_outbox(partition), *some)
