"""Groups of publish calls: their replies, and the events in the log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pushsvc.broker.append import Append
from pushsvc.broker.broker import Broker
from pushsvc.broker.committer import PendingCall
from pushsvc.broker.keys import Log
from pushsvc.broker.limits import BrokerLimits
from pushsvc.broker.publisher import EventPublisher
from pushsvc.errors import PushError
from pushsvc.event import Batch
from pushsvc.settings import TopicSettings
from pushsvc.stats.window import Window

LIMITS = BrokerLimits()
WALL = TopicSettings()
EVENT = TopicSettings(clock="event", windows=(Window.parse("10s"),))
SECOND = 1_000_000


def requests(
    broker: Broker, topic: str, batches: Sequence[Batch], settings: TopicSettings, limits: BrokerLimits = LIMITS
) -> list[PendingCall]:
    publisher = EventPublisher(broker.keys, broker.publish_command, broker.committer, max_topics=1_000, limits=limits)
    target = publisher.target(topic, settings)
    return [PendingCall(Append(target, batch), "") for batch in batches]


def commit(broker: Broker, group: list[PendingCall]) -> list[Any]:
    """Run requests as one group; return the replies without arrival and head."""
    broker.committer.commit(group, idle=True)
    return [request.reply if isinstance(request.reply, PushError) else request.reply[:3] for request in group]


def stored(broker: Broker, topic: str) -> list[dict[str, Any]]:
    log = Log(topic)
    found = broker.read(log.partition, {log: 0}).logs[log]
    return [
        {"offset": entry.first + at, "id": event.id, "time": event.time} | event.data
        for entry in found.entries
        for at, event in enumerate(entry.events)
    ]
