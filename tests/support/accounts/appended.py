"""What a group of publish calls is answered, and what of it is in the log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pushsvc.broker.append import Append
from pushsvc.broker.broker import Broker
from pushsvc.broker.committer import _Request
from pushsvc.broker.keys import Log
from pushsvc.errors import PushError
from pushsvc.event import Batch
from pushsvc.settings import TopicSettings
from pushsvc.stats.window import Window

WALL = TopicSettings()


EVENT = TopicSettings(clock="event", windows=(Window.parse("10s"),))


SECOND = 1_000_000


def requests(broker: Broker, topic: str, batches: Sequence[Batch], settings: TopicSettings) -> list[_Request]:
    target = broker._publisher._target(topic, settings)
    return [_Request(Append(target, batch), "") for batch in batches]


def commit(broker: Broker, asked: list[_Request]) -> list[Any]:
    """Run requests as one group; return the answers, of which arrivals are no matter."""
    broker._committer._commit(asked, idle=True)
    return [request.answer if isinstance(request.answer, PushError) else request.answer[:3] for request in asked]


def stored(broker: Broker, topic: str) -> list[dict[str, Any]]:
    log = Log(topic)
    found = broker.read(log.partition, {log: 0}).logs[log]
    return [
        {"offset": entry.first + at, "id": event.id, "time": event.time} | event.data
        for entry in found.entries
        for at, event in enumerate(entry.events)
    ]
