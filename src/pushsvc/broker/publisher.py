"""Appending events to a topic's log: the calls that a request needs, and the receipt that their answers make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from pushsvc.broker.append import STORED, Append, Target
from pushsvc.broker.keys import Keys, Log
from pushsvc.broker.script import RECALL, Call
from pushsvc.errors import Fault, Fenced, InvalidBatch, KeyReused, LogFull, TooManyTopics, Unconfirmed
from pushsvc.event import Batch
from pushsvc.settings import FUTURE_ALLOWANCE, LOG_FULL_FACTOR, TopicSettings

IDS_WINDOW, IDS_AT_MOST = 600_000, 1_000_000
"""Milliseconds and number for which a topic's ids and keys are remembered at least (at most twice as long)."""

_TARGETS = 10_000


class Receipt(Struct, frozen=True):
    """The answer to a publish. Offsets span all events of the request, the ones known before included.

    ``arrival`` is Redis's time and ``head`` the greatest event time so far, both in ms; None where nothing was new.
    ``replayed`` says that it is the receipt of an earlier request with the same key, whose ``note`` it brings.
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
    """Lets a request be stored once, however often it comes.

    ``key`` names the request within its topic (no control characters), ``digest`` (no spaces) tells another one with
    the same key apart, and ``note`` is given back with the receipt of one that comes again.
    """

    key: str
    digest: str
    note: bytes = b""

    @property
    def name(self) -> str:
        """Where ids are remembered, keys are too: no id has a control character."""
        return f"\0{self.key}"

    def value(self, known: Sequence[int], accepted: int, duplicates: int) -> bytes:
        """Return what is remembered; the script puts first and last offset, arrival and head before it."""
        span = f"{min(known, default=0)} {max(known, default=0)}"
        return f"{span} {accepted} {duplicates} {self.digest} ".encode() + self.note

    def receipt(self, value: bytes) -> Receipt:
        """Return the receipt that is remembered; raise KeyReused where it was another request's."""
        *numbers, digest, note = value.split(b" ", 9)
        if digest.decode() != self.digest:
            raise KeyReused(f"the key {self.key!r} was used for another request to this topic; nothing was stored")
        first, last, arrival, head, least, greatest, accepted, duplicates = map(int, numbers)
        offsets = [offset for offset in (first, last, least, greatest) if offset]
        return Receipt(
            min(offsets), max(offsets), accepted, duplicates, arrival if first else None, head if first else None,
            replayed=True, note=note,
        )  # fmt: skip


class Publisher:
    """Publishes through ``commit``, which runs a script call and returns its answer and what it lacks, if anything.

    A partition has at most ``topics`` topics: no publish begins one more.
    """

    def __init__(
        self, keys: Keys, publish_command: str, commit: Callable[[Call | Append], tuple[Any, str]], *, topics: int
    ) -> None:
        self._keys = keys
        self._topics = topics
        self._publish_command = publish_command
        self._commit = commit
        self._targets: dict[str, Target] = {}

    def publish(
        self,
        topic: str,
        given: Batch,
        settings: TopicSettings,
        *,
        fence: int | None,
        idempotency: IdempotencyKey | None,
    ) -> Receipt:
        """Append the events (at least one) that are not known yet, and see that all are as safe as was asked for."""
        fresh = given.without(given.repeated_ids())
        target = self._target(topic, settings)
        known: list[int] = []
        while True:
            remember = idempotency.value(known, fresh.count, given.count - fresh.count) if idempotency else b""
            key = idempotency.name if idempotency else ""
            answer, lacking = self._commit(Append(target, fresh, fence, key, remember))
            match answer[0]:
                case b"ok":
                    _, first, last, arrival, head = answer
                    duplicates = given.count - fresh.count
                    first, last = min([*known, first]), max([*known, last])
                    receipt = Receipt(first, last, fresh.count, duplicates, arrival, head)
                case b"known":
                    known += answer[2::2]
                    fresh = fresh.without(set(answer[1::2]))
                    if fresh.count or idempotency is not None:
                        continue
                    receipt = Receipt(min(known), max(known), 0, given.count)
                case b"again" if idempotency is not None:
                    receipt = idempotency.receipt(answer[1])
                case b"kept":
                    receipt = Receipt(min(known), max(known), 0, given.count)
                case b"ahead":
                    raise _too_far_ahead(given, answer[1], settings)
                case b"crowded":
                    raise TooManyTopics(
                        f"there is no room for the topic {topic!r}: its partition has {self._topics} topics, as many "
                        "as it may have; nothing was stored"
                    )
                case b"full":
                    raise _full(topic, answer[1], answer[2], settings)
                case _:
                    raise Fenced(f"another aggregator owns the partition of {topic!r}")
            _check_confirmed(lacking)
            return receipt

    def publish_new(self, topic: str, batch: Batch, settings: TopicSettings) -> Receipt | None:
        """Append the events of several requests in one call if all are new and nothing stands against any; else return
        None, and nothing was stored."""
        target = self._target(topic, settings)
        if not target.shares or batch.repeated_ids():
            return None
        answer, lacking = self._commit(Append(target, batch))
        if answer[0] != STORED:
            return None
        _check_confirmed(lacking)
        _, first, last, arrival, head = answer
        return Receipt(first, last, batch.count, 0, arrival, head)

    def recall(self, topic: str, idempotency: IdempotencyKey) -> Receipt | None:
        """Return the receipt of an earlier request, which is as safe as was asked for; None where there is none."""
        keys = [self._keys.partition(Log(topic).partition), *self._keys.ids(topic)]
        value, lacking = self._commit(Call(RECALL, keys, [idempotency.name]))
        if not value:
            return None
        receipt = idempotency.receipt(value)
        _check_confirmed(lacking)
        return receipt

    def _target(self, topic: str, settings: TopicSettings) -> Target:
        """Return what all publish calls to a topic have in common."""
        target = self._targets.get(topic)
        if target is None or target.settings is not settings:
            if len(self._targets) == _TARGETS:
                self._targets.clear()
            target = self._targets[topic] = self._make_target(topic, settings)
        return target

    def _make_target(self, topic: str, settings: TopicSettings) -> Target:
        keys, log = self._keys, Log(topic)
        bounded = settings.clock == "event" and not settings.jump and settings.longest_window > 0
        names = (
            keys.partition(log.partition), keys.topics(log.partition), keys.log(log), keys.metadata(log),
            *keys.ids(topic),
        )  # fmt: skip
        bounds = (
            settings.retention, kept_for_windows(settings), settings.longest_window if bounded else "",
            IDS_WINDOW, IDS_AT_MOST, self._topics,
        )  # fmt: skip
        more_bounds = (
            settings.largest_count_window,
            settings.retention_age,
            settings.retention_bytes,
            settings.full_bytes,
        )
        # Whether an event is too far ahead of an event clock depends on the request before it.
        return Target(
            settings, not bounded, names, self._publish_command, keys.partition_channel(log.partition), topic, bounds,
            more_bounds, keys.log_channel(log),
        )  # fmt: skip


def kept_for_windows(settings: TopicSettings) -> int:
    """Return the ms for which an entry stays in the log whatever the retention: a window may count it."""
    return settings.longest_window + 2 * FUTURE_ALLOWANCE


def _full(topic: str, held: int, wait: int, settings: TopicSettings) -> LogFull:
    return LogFull(
        f"the log of {topic!r} is full: it holds {held} bytes of events that its windows still count, and publishing "
        f"stops at {settings.full_bytes}, {LOG_FULL_FACTOR} times its retention_bytes; nothing was stored",
        wait,
    )


def _check_confirmed(lacking: str) -> None:
    if lacking:
        raise Unconfirmed(f"the events are in Redis, but {lacking}: repeating is safe with ids, or with the same key")


def _too_far_ahead(batch: Batch, head: int, settings: TopicSettings) -> InvalidBatch:
    faults = [
        Fault(line, "time", "more than the longest window ahead of the topic's event clock")
        for line, time in enumerate(batch.times or (), 1)
        if time is not None and time > head + settings.longest_window
    ] or [Fault(1, "time", "arrival is more than the longest window ahead of the topic's event clock")]
    return InvalidBatch(faults[:100], max(0, len(faults) - 100))
