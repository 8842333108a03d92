"""Appending events to a topic's log: the calls that a request needs, and its receipt."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from msgspec import Struct

from pushsvc.broker.append import STORED, Append, AppendTarget, Emission
from pushsvc.broker.keys import Keys, Log
from pushsvc.broker.limits import BrokerLimits
from pushsvc.broker.script import (
    RECALL,
    IdKeys,
    IndexKeys,
    LatestKeys,
    PublishKeys,
    ScriptCall,
    TopicArguments,
    TopicLimits,
)
from pushsvc.errors import Fault, Fenced, InvalidBatch, KeyReused, LogFull, PushError, TooManyTopics, Unconfirmed
from pushsvc.event import Batch
from pushsvc.pause import Pause, no_pause
from pushsvc.settings import FUTURE_ALLOWANCE, LIFETIME_AGE, LOG_FULL_FACTOR, TopicSettings

_CACHED_TARGETS = 10_000


class Receipt(Struct, frozen=True):
    """The result of a publish. The offsets span all events of the request, including those that were known before.

    ``arrival`` is Redis's time and ``head`` the greatest event time so far, both in ms; None if no event was new.
    ``replayed`` is true for the receipt of an earlier request with the same key; ``note`` is what that one left.
    """

    first_offset: int
    last_offset: int
    accepted: int
    duplicates: int
    arrival: int | None = None
    head: int | None = None
    replayed: bool = False
    note: bytes = b""


class IdempotencyKey(Struct, frozen=True):
    """Makes a request take effect once, however often it is sent.

    ``key`` names the request within its topic (no control characters), ``digest`` (no spaces) differs for another
    request with the same key, and ``note`` is returned with the receipt of a repeated request.
    """

    key: str
    digest: str
    note: bytes = b""

    @property
    def name(self) -> str:
        """The field in the hash of ids. No id has a control character, so keys and ids do not collide."""
        return f"\0{self.key}"

    def value(self, known: Sequence[int], accepted: int, duplicates: int) -> bytes:
        """Return what to remember; the script puts first and last offset, arrival and head before it."""
        span = f"{min(known, default=0)} {max(known, default=0)}"
        return f"{span} {accepted} {duplicates} {self.digest} ".encode() + self.note

    def receipt(self, value: bytes) -> Receipt:
        """Return the remembered receipt; raise KeyReused if another request used the key."""
        *numbers, digest, note = value.split(b" ", 9)
        if digest.decode() != self.digest:
            raise KeyReused(f"the key {self.key!r} was used for another request to this topic; nothing was stored")
        first, last, arrival, head, least_known, greatest_known, accepted, duplicates = map(int, numbers)
        offsets = [offset for offset in (first, last, least_known, greatest_known) if offset]
        return Receipt(
            min(offsets), max(offsets), accepted, duplicates, arrival if first else None, head if first else None,
            replayed=True, note=note,
        )  # fmt: skip


class NewEvents(NamedTuple):
    """Events for one topic that are not known to have been published before."""

    topic: str
    batch: Batch
    settings: TopicSettings


class Committing(Protocol):
    """Runs scripts that write, and returns their replies, each with the confirmation that it lacks."""

    def call(self, call: ScriptCall | Append) -> tuple[Any, str]: ...

    def call_all(self, calls: Sequence[ScriptCall | Append]) -> list[tuple[Any, str]]: ...


class EventPublisher:
    """Publishes to topics. A partition has at most ``max_topics`` topics: a publish to one more is refused."""

    def __init__(
        self,
        keys: Keys,
        publish_command: str,
        committer: Committing,
        *,
        max_topics: int,
        limits: BrokerLimits,
    ) -> None:
        self._keys = keys
        self._publish_command = publish_command
        self._committer = committer
        self._max_topics = max_topics
        self._limits = limits
        self._targets: dict[str, AppendTarget] = {}

    def publish(
        self, topic: str, batch: Batch, settings: TopicSettings, fence: int | None, idempotency: IdempotencyKey | None,
        emission: Emission | None = None, pause: Pause = no_pause,
    ) -> Receipt:  # fmt: skip
        """Append the events (at least one) that are not known yet; see ``Broker.publish``."""
        fresh = batch.without(batch.repeated_ids())
        target = self.target(topic, settings)
        known: list[int] = []
        while True:
            note = idempotency.value(known, fresh.count, batch.count - fresh.count) if idempotency else b""
            request_key = idempotency.name if idempotency else ""
            reply, missing = self._committer.call(Append(target, fresh, fence, request_key, note, emission, pause))
            match reply[0]:
                case b"ok":
                    _, first, last, arrival, head = reply
                    duplicates = batch.count - fresh.count
                    first, last = min([*known, first]), max([*known, last])
                    receipt = Receipt(first, last, fresh.count, duplicates, arrival, head)
                case b"known":
                    known += reply[2::2]
                    fresh = fresh.without(set(reply[1::2]))
                    if fresh.count or idempotency is not None:
                        continue
                    receipt = Receipt(min(known), max(known), 0, batch.count)
                case b"again" if idempotency is not None:
                    receipt = idempotency.receipt(reply[1])
                case b"emitted":
                    receipt = Receipt(0, 0, 0, batch.count)
                case b"kept":
                    receipt = Receipt(min(known), max(known), 0, batch.count)
                case b"ahead":
                    raise _too_far_ahead(batch, reply[1], settings)
                case b"crowded":
                    raise TooManyTopics(
                        f"there is no room for the topic {topic!r}: its partition has {self._max_topics} topics, "
                        "which is the limit; nothing was stored"
                    )
                case b"full":
                    raise LogFull(
                        f"the log of {topic!r} is full: it holds {reply[1]} bytes of events that its windows still "
                        f"count, and publishing stops at {settings.full_bytes}, {LOG_FULL_FACTOR} times its "
                        "retention_bytes; nothing was stored",
                        reply[2],
                    )
                case _:
                    raise Fenced(f"another aggregator owns the partition of {topic!r}")
            _check_confirmed(missing)
            return receipt

    def publish_together(self, batches: Sequence[NewEvents]) -> list[Receipt | PushError | None]:
        """Append batches in one round trip; see ``Broker.publish_together``."""
        targets = [self.target(topic, settings) for topic, _, settings in batches]
        places = [
            place
            for place, (_, batch, _) in enumerate(batches)
            if targets[place].mergeable and not batch.repeated_ids()
        ]
        found: list[Receipt | PushError | None] = [None] * len(batches)
        replies = self._committer.call_all([Append(targets[place], batches[place].batch) for place in places])
        for place, (reply, missing) in zip(places, replies, strict=True):
            if isinstance(reply, PushError):
                found[place] = reply
            elif reply[0] == STORED:
                _, first, last, arrival, head = reply
                stored = Receipt(first, last, batches[place].batch.count, 0, arrival, head)
                found[place] = _unconfirmed(missing) if missing else stored
        return found

    def recall(self, topic: str, idempotency: IdempotencyKey) -> Receipt | None:
        """Return the receipt of an earlier request, or None; raise as ``Broker.publish``."""
        keys = [self._keys.partition(Log(topic).partition), *self._keys.ids(topic)]
        value, missing = self._committer.call(ScriptCall(RECALL, keys, [idempotency.name]))
        if not value:
            return None
        receipt = idempotency.receipt(value)
        _check_confirmed(missing)
        return receipt

    def target(self, topic: str, settings: TopicSettings) -> AppendTarget:
        """Return what all publish calls to a topic share."""
        target = self._targets.get(topic)
        if target is None or target.settings is not settings:
            if len(self._targets) == _CACHED_TARGETS:
                self._targets.clear()
            target = self._targets[topic] = self._make_target(topic, settings)
        return target

    def _make_target(self, topic: str, settings: TopicSettings) -> AppendTarget:
        keys, log = self._keys, Log(topic)
        bounded = settings.clock == "event" and not settings.jump and settings.longest_window > 0
        return AppendTarget(
            settings,
            mergeable=not bounded,  # whether an event is too far ahead depends on the request before it
            keys=PublishKeys(
                partition=keys.partition(log.partition), changed=keys.changed(log.partition),
                log=keys.log(log), metadata=keys.metadata(log),
                topics=keys.topics(log.partition), remains=keys.remains(log.partition),
            ),
            id_keys=IdKeys(*keys.ids(topic)),
            arguments=TopicArguments(
                publish_command=self._publish_command, log_channel=keys.log_channel(log),
                partition_channel=keys.partition_channel(log.partition) if settings.windows else "", topic=topic,
                limits=TopicLimits(
                    max_topics=self._max_topics, max_ahead=settings.longest_window if bounded else -1,
                    ids_window=self._limits.ids_window, max_ids=self._limits.max_ids,
                    retention=settings.retention, retention_age=settings.retention_age,
                    retention_bytes=settings.retention_bytes, full_bytes=settings.full_bytes,
                    window_age=kept_age(settings), window_events=window_events(settings),
                    max_latest=settings.max_keys if settings.latest else 0,
                ).pack(),
            ),
            limits=self._limits.indexed() if settings.index else self._limits,
            latest_keys=LatestKeys(*keys.latest(topic)) if settings.latest else None,
            index_keys=IndexKeys(*keys.latest(topic), keys.index(topic)) if settings.index else None,
        )  # fmt: skip


def window_age(settings: TopicSettings) -> int:
    """Return the age in ms up to which a window may need an entry, whatever the retention; 0 without windows."""
    return settings.longest_window + 2 * FUTURE_ALLOWANCE if settings.windows else 0


def kept_age(settings: TopicSettings) -> int:
    """Return the age in ms up to which the log keeps an entry, whatever the retention; 0 without windows. A successor
    reads what a window ``all`` counts after its record."""
    return max(window_age(settings), LIFETIME_AGE if settings.lifetime else 0)


def window_events(settings: TopicSettings) -> int:
    """Return how many of the last events a window may need. Without windows it is 1: subscribers may still have to read
    the last entry, because a notification carries no large one."""
    return settings.largest_count_window if settings.windows else 1


def _check_confirmed(missing: str) -> None:
    if missing:
        raise _unconfirmed(missing)


def _unconfirmed(missing: str) -> Unconfirmed:
    return Unconfirmed(
        f"the events are in Redis, but {missing}: repeating is safe with event ids, or with the same Idempotency-Key"
    )


def _too_far_ahead(batch: Batch, head: int, settings: TopicSettings) -> InvalidBatch:
    faults = [
        Fault(line, "time", "more than the longest window ahead of the topic's event clock")
        for line, time in enumerate(batch.times or (), 1)
        if time is not None and time > head + settings.longest_window
    ] or [Fault(1, "time", "arrival is more than the longest window ahead of the topic's event clock")]
    return InvalidBatch(faults[:100], max(0, len(faults) - 100))
