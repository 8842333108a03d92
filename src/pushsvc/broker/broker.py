"""The broker: every request of the program to Redis."""

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from pushsvc.aggregate import lifetime_record
from pushsvc.broker import script
from pushsvc.broker.alerts import AlertStore
from pushsvc.broker.append import Emission
from pushsvc.broker.checkpoints import CheckpointStore
from pushsvc.broker.cluster import topology
from pushsvc.broker.cluster.cluster_live import ClusterLiveConnection, OnUp
from pushsvc.broker.components import ComponentStore
from pushsvc.broker.connection_pool import ConnectionPool
from pushsvc.broker.corrections import CorrectionStore
from pushsvc.broker.demand import DemandStore
from pushsvc.broker.index import IndexStore
from pushsvc.broker.keys import Keys, Log
from pushsvc.broker.latest import LatestStore
from pushsvc.broker.limits import BrokerLimits
from pushsvc.broker.live import LiveConnection, OnMessage, OnUnhandled
from pushsvc.broker.log import BackwardRead, ChangedLogs, FrameKind, PartitionRead
from pushsvc.broker.publisher import EventPublisher, IdempotencyKey, NewEvents, Receipt, kept_age, window_events
from pushsvc.broker.rates import RateStore
from pushsvc.broker.replies import as_text, info_of, raise_first
from pushsvc.broker.reply_reader import no_reading_pause
from pushsvc.broker.revocations import RevocationStore
from pushsvc.broker.script import RUN, ScriptCall
from pushsvc.errors import BrokerFull, BrokerUnavailable, Fenced, PushError, StartupError, Unavailable
from pushsvc.event import Batch, Event, Limits
from pushsvc.pause import Pause, no_pause
from pushsvc.settings import Ack, TopicSettings
from pushsvc.topic import PARTITIONS, partition_of

log = logging.getLogger(__name__)

CHANGED_LOGS = 1_000  # logs of which one call returns the changes
READ_BYTES = 1_000_000  # bytes that one read of a partition returns at most (and at least one entry per log)
SEEKS = 200  # logs that are searched in one round trip
TOPICS = Limits().partition_topics
LAYOUT = 3  # version of the layout in Redis; a program with an older one must not write
_BEFORE_CORRECTIONS = 2  # version of the layout until the first correction: programs of before understand it
_MEMORY = Ack()
_LIMITS = BrokerLimits()


@dataclass(frozen=True, slots=True)
class StatisticsWrite:
    """A frame to append to a statistics log, exact up to the offset ``source`` of the events log.

    ``late`` is the number of late events of the topic in all; 0: it is as before.
    """

    log: Log
    kind: FrameKind
    source: int
    frame: bytes
    late: int = 0


@dataclass(frozen=True, slots=True)
class AppendedFrame:
    """A frame in its statistics log, and the number of connections that were notified."""

    sequence: int
    receivers: int


class ReadRequest(NamedTuple):
    """Logs of one partition to read, each after an offset, the most bytes to return, and whether corrected events are
    read in their current forms."""

    partition: int
    logs: Mapping[Log, int]
    budget: int = READ_BYTES
    current: bool = False


@dataclass(frozen=True, slots=True)
class SweptLog:
    """The result of trimming a log: removed entries, whether more could go, and the bytes of events left.

    ``idle`` is true if its topic had no events and no streams for so long that it is to end. After ``wait`` ms it has
    to be checked again even if it does not change; None: never.
    """

    entries: int
    more: bool
    bytes: int
    idle: bool
    wait: int | None


@dataclass(frozen=True, slots=True)
class EndedTopics:
    """What a partition remembers of topics that ended: how many, and how many were forgotten early for lack of room.

    ``cursor`` is where the next step over them begins.
    """

    cursor: bytes
    remembered: int
    forgotten: int


class Broker:
    """A Redis or Valkey: one server, a primary known to Sentinels, or a cluster. All names begin with ``prefix``.

    A publish returns when ``ack`` is fulfilled. A partition has at most ``topics`` topics, and a primary at most
    ``pool`` connections of the pool. Methods raise only errors of ``pushsvc.errors``.
    """

    def __init__(
        self,
        url: str,
        prefix: str = "pushsvc:",
        *,
        pool: int = 32,
        topics: int = TOPICS,
        ack: Ack = _MEMORY,
        limits: BrokerLimits = _LIMITS,
    ) -> None:
        self.keys = Keys(prefix)
        self.connections = topology.connect(url, size=pool, timeout=limits.timeout)
        self.checkpoints = CheckpointStore(self.keys, self.connections)
        self.lifetimes = CheckpointStore(self.keys, self.connections, "lifetime", lifetime_record.VERSION)
        self.revocations = RevocationStore(self.keys, self.connections)
        self.alerts = AlertStore(self.keys, self.connections)
        self.components = ComponentStore(self.keys, self.connections)
        self.demand = DemandStore(self.keys, self.connections, limits.wanted_for)
        self.rates = RateStore(self.keys, self.connections)
        self.latest = LatestStore(self.keys, self.connections, self.read, self.open_partitions)
        self.index = IndexStore(self.keys, self.connections, self._read_back, self.open_partitions)
        self.committer = topology.committer(self.connections, ack, limits)
        self._corrects = False
        self.corrections = CorrectionStore(
            self.keys, self.connections, self.committer, self.latest, self.read_back, self._admit_corrections
        )
        self.publish_command = self.connections.publish_command
        self._max_remains = topics
        self._limits = limits
        self._publisher = EventPublisher(
            self.keys, self.publish_command, self.committer, max_topics=topics, limits=limits
        )

    def close(self) -> None:
        self.committer.close()
        self.connections.close()

    # Health and start

    def ping(self) -> None:
        """Return if Redis (any primary of a cluster) answers; else raise BrokerUnavailable.

        It has a connection of its own, so it answers while requests use all others.
        """
        self.connections.ping()

    def information(self, section: str, name: str) -> set[str]:
        """Return the values of a field of INFO on the primaries.

        CONFIG GET would need a permission that shows passwords.
        """
        found = map(info_of, self.connections.everywhere("INFO", section))
        return {fields[name] for fields in found if name in fields}

    def confirmations(self, ack: Ack) -> int:
        """Return how many replicas (of each primary) confirm writes; raise PushError if ``ack`` is impossible."""
        if ack.fsync:
            self.connections.everywhere("WAITAOF", 1, 0, 1)
        return min(map(int, self.connections.everywhere("WAIT", ack.replicas, 1))) if ack.replicas else 0

    def check_layout(self) -> None:
        """Store the number of partitions and the version of the layout, or raise StartupError if the data in Redis have
        another number, or a later version."""
        key = self.keys.layout
        _, (partitions, version) = self.connections.commands([
            ("HSETNX", key, "partitions", PARTITIONS), ("HMGET", key, "partitions", "version"),
        ])  # fmt: skip
        if int(partitions) != PARTITIONS:
            raise StartupError(
                f"the data in Redis has {int(partitions)} partitions, this program works with {PARTITIONS}"
            )
        if int(version or 1) > LAYOUT:
            raise StartupError(
                f"the data in Redis has the layout {int(version)} of a later version of this program, which works with "
                f"{LAYOUT}"
            )
        if int(version or 1) < _BEFORE_CORRECTIONS:
            self.connections.commands([("HSET", key, "version", _BEFORE_CORRECTIONS)])

    def _admit_corrections(self) -> None:
        """Raise the version of the layout: a program that does not know corrections must not join."""
        if not self._corrects:
            self.connections.commands([("HSET", self.keys.layout, "version", LAYOUT)])
            self._corrects = True

    def exchange_rules(self, digest: str) -> str | None:
        """Store the digest of this program's settings of topics, and return that of the one that started before."""
        key = self.keys.layout
        (before,), _ = self.connections.commands([("HMGET", key, "topics"), ("HSET", key, "topics", digest)])
        return None if before is None else bytes(before).decode()

    def check_commands(self) -> None:
        """Raise StartupError for a cluster that is too old for sharded channels."""
        for found in self.connections.everywhere("COMMAND", "INFO", self.publish_command):
            if not any(found):
                raise StartupError(
                    f"the cluster does not know {self.publish_command}: it has to be of Redis 7 or Valkey"
                )

    def live_connection(
        self, on_message: OnMessage, on_up: OnUp, *, on_unhandled: OnUnhandled = lambda *_: None,
        reading_pause: Callable[[], float] = no_reading_pause,
    ) -> LiveConnection | ClusterLiveConnection:  # fmt: skip
        """Return the process's live connection, not started yet; ``on_up`` gets the partitions that it receives."""

        def up(partitions: Sequence[int]) -> None:
            try:
                self.open_partitions(partitions)
            except Unavailable as error:
                log.warning("a new epoch cannot be written yet: %s", error)  # every read of a partition tries again
            on_up(partitions)

        return topology.live(self.connections, on_message, up, on_unhandled, reading_pause)

    def open_partitions(self, partitions: Sequence[int] = range(PARTITIONS)) -> None:
        """Start a new epoch in every partition whose primary is not the one that wrote last.

        Reads and writes do so too. But if a primary returns a partition to its predecessor between two of them, they
        see no change, though the predecessor may have lost data.
        """
        calls = [ScriptCall(script.OPEN, [self.keys.partition(number)], [RUN]) for number in partitions]
        raise_first(self.connections.calls(calls))

    # Events

    def publish(
        self,
        topic: str,
        events: Batch | Sequence[Event],
        settings: TopicSettings,
        *,
        fence: int | None = None,
        idempotency: IdempotencyKey | None = None,
        emission: Emission | None = None,
        pause: Pause = no_pause,
    ) -> Receipt:
        """Append events (at least one) to a topic's log, atomically, and notify subscribers.

        Events whose id is known keep the offset they have. A repeated request with the same ``idempotency`` gets the
        answer of the first. The events of an ``emission`` that was stored before are not stored again. ``pause`` must
        not raise: other requests may go to Redis with this one. Raises InvalidBatch (a time too far ahead of an event
        clock; ``line`` is the event's place in ``events``, from 1), KeyReused (another request used that key),
        TooManyTopics, Fenced (``fence`` is no longer the newest), LogFull, Unconfirmed, OutcomeUnknown,
        BrokerUnavailable, Overloaded or BrokerFull.
        """
        batch = events if isinstance(events, Batch) else Batch.from_events(events)
        return self._publisher.publish(topic, batch, settings, fence, idempotency, emission, pause)

    def primary_of(self, topic: str) -> Hashable:
        """Return what stands for the primary that has a topic at present: publishes to topics of one can share a round
        trip. None if no primary has it."""
        if isinstance(self.connections, ConnectionPool):
            return self.connections
        try:
            return self.connections.at(self.keys.partition(partition_of(topic)))
        except BrokerUnavailable:
            return None

    def publish_together(self, batches: Sequence[NewEvents]) -> list[Receipt | PushError | None]:
        """Append batches for different topics, each atomically, in one round trip, and notify subscribers.

        In place of a receipt there is the error that ``publish`` would raise, or None if nothing was stored because an
        event is known or something is refused: then each event must be published on its own.
        """
        return self._publisher.publish_together(batches)

    def recall(self, topic: str, idempotency: IdempotencyKey) -> Receipt | None:
        """Return the receipt of an earlier request, or None; raise as ``publish``."""
        return self._publisher.recall(topic, idempotency)

    def record_refusal(self, topic: str, detail: str) -> None:
        """Count a refused request in the metadata of a topic, if the topic exists."""
        self.connections.call(script.REFUSE, [self.keys.metadata(Log(topic))], [detail[:500]])

    def delete(self, topic: str) -> bool:
        """Delete a topic; its streams get a reset. Return whether it existed."""
        return self._end(topic)

    def expire(self, topic: str, fence: int, idle: int) -> bool:
        """Delete a topic that had no event and no stream for ``idle`` ms; return whether it was deleted.

        Only the owner of its partition may: otherwise nothing is deleted.
        """
        return self._end(topic, fence, idle)

    def _end(self, topic: str, fence: int | str = "", idle: int | str = "") -> bool:
        while (ended := self._delete(topic, fence, idle)) < 0:
            pass  # a window got its first frame meanwhile
        return bool(ended)

    def _delete(self, topic: str, fence: int | str, idle: int | str) -> int:
        events = Log(topic)
        windows = self.connections.command("HGET", self.keys.metadata(events), "windows") or b""
        statistics = [Log(topic, name) for name in windows.decode().split()]
        names, (ids, previous_ids) = self.keys, self.keys.ids(topic)
        latest, latest_order = self.keys.latest(topic)
        keys = script.DeleteKeys(
            partition=names.partition(events.partition), topics=names.topics(events.partition),
            changed=names.changed(events.partition), remains=names.remains(events.partition),
            ids=ids, previous_ids=previous_ids, log=names.log(events), metadata=names.metadata(events),
            latest=latest, latest_order=latest_order, index=names.index(topic), corrections=names.corrections(topic),
        )  # fmt: skip
        statistics_keys = [key for one in statistics for key in (names.log(one), names.metadata(one))]
        arguments = script.DeleteArguments(
            run=RUN, publish_command=self.publish_command, partition_channel=names.partition_channel(events.partition),
            topic=topic, windows=windows, max_remains=self._max_remains, fence=fence, idle=idle,
            numsub=self.connections.numsub,
        )  # fmt: skip
        channels = [names.log_channel(one) for one in (events, *statistics)]
        return int(self.connections.call(script.DELETE, [*keys, *statistics_keys], [*arguments, *channels]))

    def forget_ended(self, partition: int, fence: int, cursor: bytes) -> EndedTopics:
        """Forget some topics that ended long ago: one step over all that are remembered, from ``cursor`` on (b"0":
        from the first one on).

        Raise Fenced, or the errors of the connection.
        """
        keys = [self.keys.partition(partition), self.keys.remains(partition), self.keys.changed(partition)]
        arguments = script.ForgetArguments(
            fence=fence, cursor=cursor, age=self._limits.ended_age, max_remains=self._max_remains
        )
        state, *values = self.connections.call(script.FORGET, keys, arguments)
        if state == b"fenced":
            raise Fenced(f"another aggregator owns partition {partition}")
        return EndedTopics(*values)

    def sweep(self, logs: Mapping[str, TopicSettings], fence: int, max_entries: int) -> dict[str, SweptLog]:
        """Trim the logs of topics of one partition to their retention, by at most ``max_entries`` entries each.

        Topics that were deleted meanwhile are absent from the result. Raise Fenced, or the errors of the connection.
        """
        calls = [self._sweep_call(topic, settings, fence, max_entries) for topic, settings in logs.items()]
        replies = raise_first(self.connections.calls(calls))
        swept = {}
        for topic, (state, *values) in zip(logs, replies, strict=True):
            if state == b"fenced":
                raise Fenced(f"another aggregator owns the partition of {topic!r}")
            if state == b"ok":
                entries, more, size, idle, wait = values
                swept[topic] = SweptLog(entries, bool(more), size, bool(idle), wait if wait >= 0 else None)
        return swept

    def _sweep_call(self, topic: str, settings: TopicSettings, fence: int, max_entries: int) -> ScriptCall:
        log = Log(topic)
        keys = [self.keys.partition(log.partition), self.keys.log(log), self.keys.metadata(log), self.keys.index(topic)]
        arguments = script.SweepArguments(
            fence=fence, max_entries=max_entries, retention=settings.retention,
            retention_age=settings.retention_age, retention_bytes=settings.retention_bytes,
            window_age=kept_age(settings), window_events=window_events(settings),
            expire_after=settings.expire_after, has_index="1" if settings.index else "",
            numsub=self.connections.numsub,
        )  # fmt: skip
        logs = [log, *(Log(topic, window.name) for window in settings.windows)] if settings.expire_after else []
        return ScriptCall(script.SWEEP, keys, [*arguments, *map(self.keys.log_channel, logs)])

    # Reading

    def read(
        self, partition: int, logs: Mapping[Log, int], *, budget: int = READ_BYTES, current: bool = False
    ) -> PartitionRead:
        """Read logs of one partition, each after an offset (or FROM_SNAPSHOT, NO_ENTRIES), at one instant.

        Corrected events are read as they were published, or with ``current`` in their current forms.
        """
        found = self.reads([ReadRequest(partition, logs, budget, current)])[0]
        if isinstance(found, PushError):
            raise found
        return found

    def reads(self, requests: Sequence[ReadRequest]) -> list[PartitionRead | PushError]:
        """Read logs of several partitions in one round trip, as ``read``. A result is the error of its read."""
        calls = [self._read_call(request) for request in requests]
        answers = self.connections.calls(calls)
        closed = [n for n, answer in enumerate(answers) if not isinstance(answer, PushError) and not answer[0]]
        if closed:
            # After a restart Redis may have lost entries that readers have seen: a new epoch tells them.
            with suppress(BrokerFull):  # reading works on a full disk too
                self.open_partitions([requests[n].partition for n in closed])
                for n, answer in zip(closed, self.connections.calls([calls[n] for n in closed]), strict=True):
                    answers[n] = answer
        return [
            answer if isinstance(answer, PushError) else PartitionRead.parse(request.logs, answer)
            for request, answer in zip(requests, answers, strict=True)
        ]

    def _read_call(self, request: ReadRequest) -> ScriptCall:
        partition = request.partition
        names = self.keys
        keys = [names.partition(partition), names.lease(partition), names.remains(partition), names.changed(partition)]
        args = [RUN, request.budget, "1" if request.current else ""]
        for log, after in request.logs.items():
            keys += [self.keys.log(log), self.keys.metadata(log)]
            args += [log.name, after]
        return ScriptCall(script.READ, keys, args)

    def changed(self, partition: int, after: int, *, limit: int = CHANGED_LOGS) -> ChangedLogs:
        """Return the logs of a partition that changed after a sequence: at most ``limit``, more than a topic
        has logs, those that changed first. The next ones are those after ``through``."""
        key = self.keys.changed(partition)
        (epoch, sequence), found = self.connections.commands([
            ("HMGET", self.keys.partition(partition), "epoch", "sequence"),
            ("ZRANGEBYSCORE", key, f"({after}", "+inf", "WITHSCORES", "LIMIT", 0, limit),
        ])  # fmt: skip
        sequences = dict(zip(as_text(found[::2]), map(int, found[1::2]), strict=True))
        through, more = int(sequence or 0), len(sequences) == limit
        if more:
            # The logs of a deleted topic share one sequence, so the piece may have only some of the last one's.
            last = max(sequences.values())
            sequences = {name: changed for name, changed in sequences.items() if changed < last}
            through = max(sequences.values())
        return ChangedLogs(int(epoch or 0), through, more, sequences)

    def _read_back(self, topic: str, start: str, budget: int) -> BackwardRead:
        return self.read_back(topic, start, budget=budget)

    def read_back(self, topic: str, start: str, *, budget: int = READ_BYTES, current: bool = True) -> BackwardRead:
        """Read a topic's entries from the newest one down, at one instant, by default in their current forms.

        ``start`` is the offset of the last event of the first entry, ``+`` for the end of the log, or ``>`` and an
        offset for the entry after it.
        """
        log = Log(topic)
        keys = [self.keys.partition(log.partition), self.keys.log(log)]
        if current:
            keys.append(self.keys.corrections(topic))
        call = ScriptCall(script.READ_BACK, keys, [RUN, budget, start])
        answer = raise_first(self.connections.calls([call]))[0]
        if not answer[0]:
            self.open_partitions([log.partition])
            answer = raise_first(self.connections.calls([call]))[0]
        return BackwardRead.parse(answer)

    def seek_sequence(self, topic: str, sequence: int) -> int:
        """Return the offset after which a topic's entries have events above ``sequence``."""
        return self.seek_sequences([(topic, sequence)])[0]

    def seek_sequences(self, wanted: Sequence[tuple[str, int]]) -> list[int]:
        """Return for each topic and sequence what ``seek_sequence`` returns, in a few round trips."""
        calls = [self._seek_call(topic, "sequence", sequence) for topic, sequence in wanted]
        pieces = (calls[start : start + SEEKS] for start in range(0, len(calls), SEEKS))
        return [int(found) for piece in pieces for found in raise_first(self.connections.calls(piece))]

    def seek_arrival(self, topic: str, arrival: int) -> int:
        """Return the offset after which a topic's entries arrived later than ``arrival`` (ms)."""
        return int(raise_first(self.connections.calls([self._seek_call(topic, "arrival", arrival)]))[0])

    def _seek_call(self, topic: str, by: str, value: int) -> ScriptCall:
        log = Log(topic)
        keys = [self.keys.log(log), self.keys.metadata(log), self.keys.remains(log.partition)]
        return ScriptCall(script.SEEK, keys, [by, value, topic])

    def topics(self, partitions: Sequence[int] = range(PARTITIONS)) -> dict[str, int]:
        """Return all topics (of some partitions), by name, with the time of their creation (ms)."""
        found: dict[str, int] = {}
        for partition in partitions:  # one by one: listing a million topics at once would delay every stream
            found.update(self.topics_of(partition))
        return {name: found[name] for name in sorted(found)}

    def topics_of(self, partition: int) -> dict[str, int]:
        """Return the topics of one partition, with the time of their creation (ms)."""
        reply = self.connections.command("HGETALL", self.keys.topics(partition))
        return dict(zip(as_text(reply[::2]), map(int, reply[1::2]), strict=True))

    def topic_marks(self, partitions: Sequence[int]) -> list[tuple[object, ...]]:
        """Return for each partition a value that differs after a topic was created or deleted."""
        replies = self.connections.commands([
            command
            for partition in partitions
            for command in (
                # A deletion alone makes the number smaller; after a creation ``born`` is another one.
                ("HMGET", self.keys.partition(partition), "epoch", "born"),
                ("HLEN", self.keys.topics(partition)),
            )
        ])  # fmt: skip
        return [(*state, count) for state, count in zip(replies[::2], replies[1::2], strict=True)]

    def metadata(self, logs: Sequence[Log]) -> list[dict[str, str]]:
        """Return the metadata of each log: first, last, created, arrival, late, refused, windows, source …"""
        replies = self.connections.commands([("HGETALL", self.keys.metadata(log)) for log in logs])
        return [dict(zip(as_text(reply[::2]), as_text(reply[1::2]), strict=True)) for reply in replies]

    def memory_of(self, logs: Sequence[Log]) -> int:
        """Return about how many bytes of Redis logs of one topic take, without reading them."""
        keys = [self.keys.log(log) for log in logs]
        replies = self.connections.at(keys[0]).commands([("MEMORY", "USAGE", key) for key in keys])
        return sum(reply or 0 for reply in replies)

    # Statistics

    def append_statistics(
        self, writes: Sequence[StatisticsWrite], fence: int
    ) -> list[AppendedFrame | PushError | None]:
        """Append frames of one partition in one round trip.

        Each result is AppendedFrame, None if the topic was deleted meanwhile, or the error that refused the frame.
        """
        replies = self.connections.calls([self._statistics_call(write, fence) for write in writes])
        return [_appended(reply) for reply in replies]

    def _statistics_call(self, write: StatisticsWrite, fence: int) -> ScriptCall:
        log, keys = write.log, self.keys
        arguments = script.StatisticsArguments(
            run=RUN, publish_command=self.publish_command, log_channel=keys.log_channel(log), fence=fence,
            kind=write.kind, source=write.source, frame=write.frame, late=write.late, topic=log.topic,
            log=log.name, window=log.suffix,
        )  # fmt: skip
        metadata = [keys.metadata(log), keys.metadata(Log(log.topic))]
        partition = [keys.partition(log.partition), keys.changed(log.partition), keys.remains(log.partition)]
        return ScriptCall(script.STATISTICS, [*partition, keys.log(log), *metadata], arguments)

    def report_late(self, partition: int, fence: int, late: Mapping[str, tuple[int, int]]) -> None:
        """Write the late events of topics to their metadata: the number in all, and the offset up to which they count.

        Raise Fenced.
        """
        keys = self.keys
        calls = [
            ScriptCall(script.LATE, [keys.partition(partition), keys.metadata(Log(topic))], [fence, *numbers])
            for topic, numbers in late.items()
        ]
        if b"fenced" in raise_first(self.connections.calls(calls)):
            raise Fenced(f"another aggregator owns partition {partition}")

    # Leases

    def lease(self, partitions: Sequence[int], owner: str, milliseconds: int) -> dict[int, int | None]:
        """Take or keep leases; return partition -> fencing token of those that ``owner`` has now.

        The token is None if the partition's primary could not be asked while others could.
        """
        keys = [[self.keys.partition(number), self.keys.lease(number)] for number in partitions]
        arguments = [RUN, owner, milliseconds]
        replies = self.connections.calls([ScriptCall(script.LEASE, one, arguments) for one in keys])
        failed = [isinstance(reply, PushError) for reply in replies]
        if all(failed):
            raise_first(replies)
        return {
            partition: None if lost else int(reply[1])
            for partition, lost, reply in zip(partitions, failed, replies, strict=True)
            if lost or reply[0]
        }

    def release(self, partitions: Sequence[int], owner: str) -> None:
        """Give leases back, so that another aggregator need not wait until they expire."""
        calls = [ScriptCall(script.RELEASE, [self.keys.lease(number)], [owner]) for number in partitions]
        raise_first(self.connections.calls(calls))

    def join_aggregators(self, owner: str, now: int, until: int) -> int:
        """Register an aggregator as alive until a time (ms); return the number of live aggregators."""
        key = self.keys.aggregators
        replies = self.connections.commands(
            [("ZADD", key, until, owner), ("ZREMRANGEBYSCORE", key, "-inf", now), ("ZCARD", key)]
        )
        return int(replies[2])

    def leave_aggregators(self, owner: str) -> None:
        self.connections.command("ZREM", self.keys.aggregators, owner)

    def time(self, partition: int | None = None) -> int:
        """Return the time (ms) of a partition's primary; without a partition, of the one that registers aggregators."""
        key = self.keys.aggregators if partition is None else self.keys.partition(partition)
        seconds, microseconds = self.connections.at(key).command("TIME")
        return int(seconds) * 1000 + int(microseconds) // 1000


def _appended(reply: Any) -> AppendedFrame | PushError | None:
    if isinstance(reply, PushError):
        return reply
    if reply[0] == b"fenced":
        return Fenced("another aggregator owns the partition")
    return AppendedFrame(int(reply[1]), int(reply[2])) if reply[0] == b"ok" else None
