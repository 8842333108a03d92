"""What the rest of the program asks of Redis."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pushsvc.broker.checkpoints import CheckpointStore
from pushsvc.broker.cluster import topology
from pushsvc.broker.cluster.cluster_live import ClusterLiveConnection
from pushsvc.broker.connection import raise_first, words
from pushsvc.broker.keys import Keys, Log
from pushsvc.broker.live import LiveConnection, OnMessage
from pushsvc.broker.log import FrameKind, LogRead, PartitionRead
from pushsvc.broker.publisher import IdempotencyKey, Publisher, Receipt, kept_for_windows
from pushsvc.broker.script import DELETE, LEASE, OPEN, READ, RELEASE, RUN, SEEK, STATISTICS, SWEEP, Call
from pushsvc.errors import BrokerFull, Fenced, PushError, StartupError, Unavailable
from pushsvc.event import Batch, Event, Limits
from pushsvc.settings import Ack, TopicSettings
from pushsvc.topic import PARTITIONS

log = logging.getLogger(__name__)

READ_BYTES = 1_000_000
"""Bytes that one read of a partition brings at most (one entry more, to be exact)."""

TOPICS = Limits().topics

_MEMORY = Ack()

DELETION_REMEMBERED = 7 * 86_400_000


@dataclass(frozen=True, slots=True)
class AppendedFrame:
    """A frame written to a statistics log, and how many connections heard of it at once."""

    sequence: int
    receivers: int


@dataclass(frozen=True, slots=True)
class Swept:
    """What trimming did to a log: entries that went, whether there are more to go, and the bytes of events left."""

    entries: int
    more: bool
    bytes: int


class Broker:
    """Redis or Valkey (a server, a primary that Sentinels know, a cluster), below one prefix of names; a partition gets
    at most ``topics`` topics.

    A publish returns when ``ack`` is fulfilled.

    Methods raise errors of ``pushsvc.errors`` alone.
    """

    def __init__(
        self, url: str, prefix: str = "pushsvc:", *, pool: int = 32, topics: int = TOPICS, ack: Ack = _MEMORY
    ) -> None:
        self.keys = Keys(prefix)
        self._connections = topology.connect(url, size=pool)
        self.checkpoints = CheckpointStore(self.keys, self._connections)
        self._committer = topology.committer(self._connections, ack)
        self.publish_command = self._connections.publish_command
        self._publisher = Publisher(self.keys, self.publish_command, self._committer.call, topics=topics)

    def close(self) -> None:
        self._committer.close()
        self._connections.close()

    # Health and start

    def ping(self) -> None:
        """Return if Redis answers, of a cluster any primary; raise BrokerUnavailable."""
        self._connections.anywhere("PING")

    def configuration(self, name: str) -> set[str]:
        """Return the values of a Redis setting, one for all primaries that agree; none where it may not be read."""
        answers = self._connections.everywhere("CONFIG", "GET", name)
        return {answer[1].decode() for answer in answers if len(answer) > 1}

    def confirmations(self, ack: Ack) -> int:
        """Return how many replicas (of each primary) have confirmed all so far; raise PushError where ``ack`` can never
        be fulfilled."""
        if ack.fsync:
            self._connections.everywhere("WAITAOF", 1, 0, 1)
        return min(map(int, self._connections.everywhere("WAIT", ack.replicas, 1))) if ack.replicas else 0

    def check_layout(self) -> None:
        """Write down the number of partitions, or raise StartupError where another number is written."""
        key = self.keys.layout
        self._connections.commands([("HSETNX", key, "partitions", PARTITIONS)])
        count = int(self._connections.command("HGET", key, "partitions"))
        if count != PARTITIONS:
            raise StartupError(f"the data in Redis has {count} partitions, this program works with {PARTITIONS}")

    def check_commands(self) -> None:
        """Return where Redis knows how to wake; raise StartupError for a cluster that is too old."""
        for found in self._connections.everywhere("COMMAND", "INFO", self.publish_command):
            if not any(found):
                raise StartupError(
                    f"the cluster does not know {self.publish_command}: it has to be of Redis 7 or Valkey"
                )

    def live_connection(
        self,
        on_message: OnMessage,
        on_up: Callable[[Sequence[int]], None],
        *,
        on_unhandled: Callable[[str, bytes], None] = lambda *_: None,
    ) -> LiveConnection | ClusterLiveConnection:
        """Return the process's live connection, not started yet; ``on_up`` is told of which partitions it hears."""

        def up(partitions: Sequence[int]) -> None:
            try:
                self.open_partitions(partitions)
            except Unavailable as error:
                log.warning("a new epoch cannot be written yet: %s", error)  # whoever reads a partition tries again
            on_up(partitions)

        return topology.live(self._connections, on_message, up, on_unhandled)

    def open_partitions(self, partitions: Sequence[int] = range(PARTITIONS)) -> None:
        """Begin a new epoch in every partition whose primary is not the one that wrote last.

        Reading and writing do so, too. But of a primary that had the partition and gave it back to the one before,
        while nobody read or wrote, nothing would be left to see; and that one may have lost what it had before.
        """
        raise_first(self._connections.calls([Call(OPEN, [self.keys.partition(p)], [RUN]) for p in partitions]))

    # Events

    def publish(
        self,
        topic: str,
        events: Batch | Sequence[Event],
        settings: TopicSettings,
        *,
        fence: int | None = None,
        idempotency: IdempotencyKey | None = None,
    ) -> Receipt:
        """Append events (at least one) to a topic's log, atomically, and wake who waits.

        Events whose id is known keep the offset they have. A repeated request with the same ``idempotency`` gets the
        answer of the first. Raises InvalidBatch (a time too far ahead of an event clock; ``line`` is the event's place
        in ``events``, from 1), KeyReused (another request used the key of ``idempotency``), TooManyTopics, Fenced
        (``fence`` is no longer the newest), LogFull, Unconfirmed, OutcomeUnknown, BrokerUnavailable, Overloaded or
        BrokerFull.
        """
        given = events if isinstance(events, Batch) else Batch.from_events(events)
        return self._publisher.publish(topic, given, settings, fence=fence, idempotency=idempotency)

    def publish_new(self, topic: str, batch: Batch, settings: TopicSettings) -> Receipt | None:
        """Append the events of several requests as one, if all of them can be; else return None, and nothing was
        stored. Raises as ``publish``, for all of them."""
        return self._publisher.publish_new(topic, batch, settings)

    def recall(self, topic: str, idempotency: IdempotencyKey) -> Receipt | None:
        """Return the receipt of an earlier request, None where none is remembered; raise as ``publish``."""
        return self._publisher.recall(topic, idempotency)

    def record_refusal(self, topic: str, detail: str) -> None:
        """Note on a topic that exists that something for it was refused."""
        figures = self.keys.metadata(Log(topic))
        if self._connections.command("HEXISTS", figures, "created"):
            self._connections.commands(
                [("HINCRBY", figures, "refused", 1), ("HSET", figures, "last_refusal", detail[:500])]
            )

    def delete(self, topic: str) -> bool:
        """Forget a topic; streams of it get a reset. Return whether there was one."""
        while (deleted := self._delete(topic)) < 0:
            pass  # the first frame of a window came between
        return bool(deleted)

    def _delete(self, topic: str) -> int:
        events = Log(topic)
        names = self._connections.command("HGET", self.keys.metadata(events), "windows") or b""
        logs = [events, *(Log(topic, name) for name in names.decode().split())]
        keys = [self.keys.partition(events.partition), self.keys.topics(events.partition), *self.keys.ids(topic)]
        for log in logs:
            keys += [self.keys.log(log), self.keys.metadata(log)]
        args = [
            RUN,
            self.publish_command,
            topic,
            self.keys.partition_channel(events.partition),
            DELETION_REMEMBERED,
            names,
        ]
        return int(self._connections.call(DELETE, keys, args + [self.keys.log_channel(log) for log in logs]))

    def sweep(self, logs: Mapping[str, TopicSettings], fence: int, most: int) -> dict[str, Swept]:
        """Trim the logs of topics of one partition to their retention, at most so many entries of each.

        A topic that was deleted meanwhile is absent from the answer. Raise Fenced, and what the connection raises.
        """
        answers = self._connections.calls([self._sweep(topic, one, fence, most) for topic, one in logs.items()])
        raise_first(answers)
        found = {}
        for topic, (state, *figures) in zip(logs, answers, strict=True):
            if state == b"fenced":
                raise Fenced(f"another aggregator owns the partition of {topic!r}")
            if state == b"ok":
                entries, more, size = figures
                found[topic] = Swept(entries, bool(more), size)
        return found

    def _sweep(self, topic: str, settings: TopicSettings, fence: int, most: int) -> Call:
        log = Log(topic)
        keys = [self.keys.partition(log.partition), self.keys.log(log), self.keys.metadata(log)]
        bounds = settings.largest_count_window, settings.retention_age, settings.retention_bytes
        return Call(SWEEP, keys, [fence, settings.retention, kept_for_windows(settings), *bounds, most])

    # Reading

    def read(self, partition: int, logs: Mapping[Log, int], *, budget: int = READ_BYTES) -> PartitionRead:
        """Read logs of one partition, each after an offset (or FROM_SNAPSHOT, NO_ENTRIES), at one instant."""
        keys = [self.keys.partition(partition), self.keys.lease(partition)]
        for log in logs:
            keys += [self.keys.log(log), self.keys.metadata(log)]
        args = [RUN, budget, *logs.values()]
        opened, *answer = self._connections.call(READ, keys, args)
        if not opened:
            # What a restarted Redis holds may end before what readers of the old epoch remember: they must be told.
            with suppress(BrokerFull):  # reading works on a full disk too
                self._connections.call(OPEN, [self.keys.partition(partition)], [RUN])
                _, *answer = self._connections.call(READ, keys, args)
        epoch, sequence, now, owned, newest_topic_sequence, *found = answer
        return PartitionRead(
            epoch, sequence, now, bool(owned), newest_topic_sequence,
            {log: LogRead.parse(log, values) for log, values in zip(logs, found, strict=True)},
        )  # fmt: skip

    def seek_sequence(self, topic: str, sequence: int) -> int:
        """Return the offset after which a topic's entries have events above ``sequence``."""
        return self._seek(topic, "sequence", sequence)

    def seek_arrival(self, topic: str, arrival: int) -> int:
        """Return the offset after which a topic's entries arrived later than ``arrival`` (ms)."""
        return self._seek(topic, "arrival", arrival)

    def _seek(self, topic: str, by: str, value: int) -> int:
        log = Log(topic)
        return int(self._connections.call(SEEK, [self.keys.log(log), self.keys.metadata(log)], [by, value]))

    def topics(self, partitions: Sequence[int] = range(PARTITIONS)) -> dict[str, int]:
        """Return all topics (of some partitions), by name, with the time they began (ms)."""
        found: dict[str, int] = {}
        for partition in partitions:  # one by one: of a million topics at once all streams would feel it
            found.update(self.topics_of(partition))
        return {name: found[name] for name in sorted(found)}

    def topics_of(self, partition: int) -> dict[str, int]:
        """Return the topics of one partition, with the time they began (ms)."""
        answer = self._connections.command("HGETALL", self.keys.topics(partition))
        return dict(zip(words(answer[::2]), map(int, answer[1::2]), strict=True))

    def metadata(self, logs: Sequence[Log]) -> list[dict[str, str]]:
        """Return what is written beside each log: first, last, created, arrival, late, refused, windows, source …"""
        answers = self._connections.commands([("HGETALL", self.keys.metadata(log)) for log in logs])
        return [dict(zip(words(answer[::2]), words(answer[1::2]), strict=True)) for answer in answers]

    # Statistics

    def append_statistics(
        self, frames: Sequence[StatisticsWrite], fence: int
    ) -> list[AppendedFrame | PushError | None]:
        """Append frames of one partition in one round trip.

        Each answer is AppendedFrame, None where the topic was deleted meanwhile, or the error that refused it.
        """
        return [self._appended(answer) for answer in self._connections.calls([f.call(self, fence) for f in frames])]

    def _appended(self, answer: Any) -> AppendedFrame | PushError | None:
        if isinstance(answer, PushError):
            return answer
        if answer[0] == b"fenced":
            return Fenced("another aggregator owns the partition")
        return AppendedFrame(int(answer[1]), int(answer[2])) if answer[0] == b"ok" else None

    # Leases

    def lease(self, partitions: Sequence[int], owner: str, milliseconds: int) -> dict[int, int | None]:
        """Take or keep leases; return partition -> fencing token of those that are the owner's now.

        None stands for a token where the partition's primary could not be asked, while others could.
        """
        answers = self._connections.calls(
            [Call(LEASE, [self.keys.partition(p), self.keys.lease(p)], [RUN, owner, milliseconds]) for p in partitions]
        )
        failed = [isinstance(answer, PushError) for answer in answers]
        if all(failed):
            raise_first(answers)
        return {
            partition: None if lost else int(answer[1])
            for partition, lost, answer in zip(partitions, failed, answers, strict=True)
            if lost or answer[0]
        }

    def release(self, partitions: Sequence[int], owner: str) -> None:
        """Give leases back, so that another aggregator need not wait for their end."""
        raise_first(self._connections.calls([Call(RELEASE, [self.keys.lease(p)], [owner]) for p in partitions]))

    def join_aggregators(self, owner: str, now: int, until: int) -> int:
        """Say that an aggregator is alive until a time (ms); return how many are."""
        key = self.keys.aggregators
        answers = self._connections.commands(
            [("ZADD", key, until, owner), ("ZREMRANGEBYSCORE", key, "-inf", now), ("ZCARD", key)]
        )
        return int(answers[2])

    def leave_aggregators(self, owner: str) -> None:
        self._connections.command("ZREM", self.keys.aggregators, owner)

    def time(self, partition: int | None = None) -> int:
        """Return the time (ms) of the primary of a partition, or of the one that counts the aggregators."""
        key = self.keys.aggregators if partition is None else self.keys.partition(partition)
        seconds, microseconds = self._connections.at(key).command("TIME")
        return int(seconds) * 1000 + int(microseconds) // 1000


@dataclass(frozen=True, slots=True)
class StatisticsWrite:
    """A frame to append. ``source`` is the offset of the events log for which it is exact."""

    log: Log
    kind: FrameKind
    source: int
    frame: bytes
    late: int = 0

    def call(self, broker: Broker, fence: int) -> Call:
        keys = broker.keys
        return Call(
            STATISTICS,
            [keys.partition(self.log.partition), keys.log(self.log), keys.metadata(self.log),
             keys.metadata(Log(self.log.topic))],
            [RUN, broker.publish_command, keys.log_channel(self.log), fence, self.kind, self.source, self.frame,
             self.late, self.log.suffix],
        )  # fmt: skip
