"""An aggregator's worker that is moved turn by turn over a real Redis."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from prometheus_client import REGISTRY

from pushsvc.broker.broker import Broker
from pushsvc.broker.keys import Log
from pushsvc.broker.log import StatisticsEntry
from pushsvc.event import Event
from pushsvc.settings import TopicRules
from pushsvc.worker.partition import Partition
from pushsvc.worker.worker import AggregatorWorker

HOUR = 3_600_000


@dataclass
class Owner:
    """A worker that owns the partition of some topics for an hour."""

    broker: Broker
    topics: list[str]
    rules: TopicRules = field(default_factory=TopicRules)
    worker: AggregatorWorker = field(init=False)

    def __post_init__(self) -> None:
        self.number = Log(self.topics[0]).partition
        assert {Log(topic).partition for topic in self.topics} == {self.number}
        self.worker = AggregatorWorker(self.broker, self.rules)
        self.worker._adopt(self.number, lease(self.broker, self.number))

    @property
    def partition(self) -> Partition:
        (partition,) = self.worker._partitions.values()
        return partition

    def publish(self, topic: str, **data: Any) -> None:
        self.publish_all(topic, [Event(key="k", data=data)])

    def publish_all(self, topic: str, events: list[Event]) -> None:
        self.broker.publish(topic, events, self.rules.settings_of(topic))

    def turns(self, count: int = 4) -> None:
        for partition in self.worker._partitions.values():
            partition.unread.update(self.topics)
        for _ in range(count):
            self.worker._step()

    def take_checkpoint(self) -> None:
        """Write a checkpoint of the engine that most needs one."""
        checkpoints = self.worker._checkpoints
        checkpoints._rest_until = 0
        checkpoints.look(self.worker._partitions.values())
        if checkpoints._writing is not None:
            checkpoints._writing.get()

    def frames(self, topic: str, window: str = "1m") -> list[StatisticsEntry]:
        """Return what the statistics log of a window has."""
        log = Log(topic, window)
        return self.broker.read(log.partition, {log: 0}).logs[log].entries

    def told(self, topic: str, window: str = "1m") -> tuple[int, int]:
        """Return the offset that the statistics are exact for, and the number of events in a window."""
        *_, entry = self.frames(topic, window)
        return entry.source, entry.frame["data"][0][2]


def lease(broker: Broker, number: int) -> int:
    """Take a partition from whoever owns it, as a new owner; return the fencing token."""
    broker._connections.command("DEL", broker.keys.lease(number))
    broker._connections.command("HDEL", broker.keys.partition(number), "owner")
    return broker.lease([number], "owner", HOUR)[number]


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def neighbours(topic: str, count: int) -> list[str]:
    """Return names of topics of the same partition."""
    number = Log(topic).partition
    found = (name for n in range(100_000) if Log(name := f"beside-{n}").partition == number)
    return [next(found) for _ in range(count)]
