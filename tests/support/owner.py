"""An aggregator's worker that a test moves step by step over a real Redis."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pushsvc.broker.broker import Broker
from pushsvc.broker.keys import Log
from pushsvc.broker.log import StatisticsEntry
from pushsvc.event import Event
from pushsvc.settings import TopicRules
from pushsvc.worker.partition import Partition
from pushsvc.worker.policy import CheckpointPolicy, WorkerPolicy
from pushsvc.worker.worker import AggregatorWorker

HOUR = 3_600_000
UNBOUNDED = float("inf")

EAGER = CheckpointPolicy(
    share=UNBOUNDED,
    worth=0.0,
    interval=0.0,
    poll_interval=0.0,
    bytes_per_second=UNBOUNDED,
    burst=UNBOUNDED,
    piece_bytes=10_000,
)
"""A checkpoint is due as soon as an entry was counted, and has many pieces."""


@dataclass
class Owner:
    """A worker that owns the partition of topics for an hour. Their windows are wanted, unless ``unwanted``."""

    broker: Broker
    topics: list[str]
    rules: TopicRules = field(default_factory=TopicRules)
    policy: WorkerPolicy = field(
        default_factory=lambda: WorkerPolicy(retry_pause=0.0, quiet_pause=0.0, rebuilt_entries=0, checkpoints=EAGER)
    )
    unwanted: bool = False
    worker: AggregatorWorker = field(init=False)

    def __post_init__(self) -> None:
        self.number = Log(self.topics[0]).partition
        assert {Log(topic).partition for topic in self.topics} == {self.number}
        if not self.unwanted:
            self.want()
        self.worker = AggregatorWorker(self.broker, self.rules, policy=self.policy)
        self.worker.adopt(self.number, lease(self.broker, self.number))

    def want(self) -> None:
        """Ask for the frames of all windows, as streams do."""
        windows = [Log(topic, window.name) for topic in self.topics for window in self.rules.settings_of(topic).windows]
        self.broker.demand.ask(windows, unborn=True)

    @property
    def partition(self) -> Partition:
        (partition,) = self.worker.partitions.values()
        return partition

    def publish(self, topic: str, **data: Any) -> None:
        self.publish_all(topic, [Event(key="k", data=data)])

    def publish_all(self, topic: str, events: list[Event]) -> None:
        self.broker.publish(topic, events, self.rules.settings_of(topic))

    def step(self, count: int = 4) -> None:
        for partition in self.worker.partitions.values():
            partition.unread.update(self.topics)
        for _ in range(count):
            self.worker.step()

    def take_checkpoint(self) -> None:
        """Write a checkpoint of the engine that most needs one."""
        checkpointer = self.worker.checkpointer
        checkpointer.poll(self.worker.partitions.values())
        assert checkpointer.wait(60)

    def frames(self, topic: str, window: str = "1m") -> list[StatisticsEntry]:
        """Return the entries of a window's statistics log."""
        log = Log(topic, window)
        return self.broker.read(log.partition, {log: 0}).logs[log].entries

    def rows(self, topic: str, window: str = "1m") -> dict[tuple[str | None, str | None], list[Any]]:
        """Return the rows of the newest snapshot with the updates after it."""
        kept: dict[tuple[str | None, str | None], list[Any]] = {}
        for entry in self.frames(topic, window):
            if entry.kind != "u":
                kept = {}
            for row in entry.frame["data"]:
                kept[row[0], row[1]] = row
            for gone in entry.frame["gone"]:
                kept.pop(tuple(gone), None)
        return {name: row for name, row in kept.items() if row[2]}

    def totals(self, topic: str, window: str = "1m") -> tuple[int, int]:
        """Return the offset of the last frame, and the number of events in the window."""
        *_, entry = self.frames(topic, window)
        return entry.source, entry.frame["data"][0][2]


def lease(broker: Broker, number: int) -> int:
    """Take a partition from its owner as a new one; return the fencing token."""
    broker.connections.command("DEL", broker.keys.lease(number))
    broker.connections.command("HDEL", broker.keys.partition(number), "owner")
    return broker.lease([number], "owner", HOUR)[number]


def neighbours(topic: str, count: int) -> list[str]:
    """Return names of topics of the same partition."""
    number = Log(topic).partition
    found = (name for n in range(100_000) if Log(name := f"beside-{n}").partition == number)
    return [next(found) for _ in range(count)]
