"""Events that a group gave up, handed to it again."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import orjson

from pushsvc.broker.broker import Broker
from pushsvc.broker.keys import Log
from pushsvc.components.messages import Parked
from pushsvc.errors import InvalidTopic
from pushsvc.event import Event
from pushsvc.topic import DEAD, check_topic, is_dead, partition_of


@dataclass(slots=True)
class Replayed:
    """Dead events that were handed over, those that were before, and those that cannot be: timers, other groups."""

    replayed: int = 0
    before: int = 0
    skipped: int = 0
    waiting: bool = False  # so many wait that the rest has to be handed over later


def replay(broker: Broker, topic: str, *, group: str | None = None, again: bool = False) -> Replayed:
    """Hand the events of a topic of dead events to the groups that gave them up, or to one of them.

    Events that were replayed before are left out, unless ``again``. Raise InvalidTopic, and errors of the broker.
    """
    if not is_dead(check_topic(topic)):
        raise InvalidTopic(f"{topic!r} has no dead events: its name does not end with {DEAD}")
    total, after, log = Replayed(), 0, Log(topic)
    while True:
        read = broker.read(log.partition, {log: after}).logs[log]
        for entry in read.entries:
            for offset, event in enumerate(entry.events, entry.first):
                _hand_over(broker, event, None if again else offset, group, total)
                if total.waiting:
                    return total
            after = entry.last
        if not read.more:
            return total


def _hand_over(broker: Broker, event: Event, offset: int | None, group: str | None, total: Replayed) -> None:
    found = _parked_of(event)
    owner = event.data.get("group")
    if found is None or not isinstance(owner, str) or group not in (None, owner):
        total.skipped += 1
        return
    data = msgspec.msgpack.encode(found)
    done = broker.components.replay(owner, partition_of(found.topic), found.topic, offset, data)
    total.replayed += done == 1
    total.before += done == 0
    total.waiting = done < 0


def _parked_of(event: Event) -> Parked | None:
    """Return the event that a dead event has; None if it has none, such as that of a timer."""
    data = event.data
    topic, offset, arrival, failed = (data.get(name) for name in ("topic", "offset", "arrival", "event"))
    if not (isinstance(topic, str) and isinstance(offset, int) and isinstance(arrival, int)):
        return None
    if not isinstance(failed, dict):
        return None
    return Parked(topic, offset, arrival, orjson.dumps(failed), key=event.key)
