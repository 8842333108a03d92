"""Appending events to a topic's log: the calls that a request needs, and the receipt that their answers make."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import Struct

from pushsvc.broker.connection import PUBLISH, RECALL, RUN, WAKE, Call
from pushsvc.broker.keys import Keys, Log
from pushsvc.errors import Fault, Fenced, InvalidBatch, KeyReused, LogFull, TooManyTopics, Unconfirmed
from pushsvc.event import Batch
from pushsvc.settings import FULL, FUTURE_ALLOWANCE, TopicSettings

CHUNK_EVENTS, CHUNK_BYTES = 1_000, 256_000
"""A larger request becomes several entries of at most this many events or bytes (or one event that is larger)."""

IDS_WINDOW, IDS_AT_MOST = 600_000, 1_000_000
"""Milliseconds and number for which a topic's ids and keys are remembered at least (at most twice as long)."""

_FENCE, _KEY, _NOTE = 5, 12, 13
"""Places of the fencing token, the idempotency key and what is remembered with it among a call's arguments."""

_TARGETS = 10_000


class Receipt(Struct, frozen=True):
    """The answer to a publish. Offsets span all events of the request, the ones known before included.

    ``arrival`` is Redis's time and ``head`` the greatest event time so far, both in ms; None where nothing was new.
    ``again`` says that it is the receipt of an earlier request with the same key, whose ``note`` it brings.
    """

    first_offset: int
    last_offset: int
    accepted: int
    duplicates: int
    arrival: int | None = None
    head: int | None = None
    again: bool = False
    note: bytes = b""


class Once(Struct, frozen=True):
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
            again=True, note=note,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Target:
    """Keys and first arguments of the publish calls to a topic."""

    settings: TopicSettings
    keys: tuple[str, ...]
    args: tuple[Any, ...]
    wakes: str


class Publisher:
    """Publishes through ``commit``, which runs a script call and returns its answer and what it lacks, if anything.

    A partition has at most ``topics`` topics: no publish begins one more.
    """

    def __init__(
        self, keys: Keys, publish_command: str, commit: Callable[[Call], tuple[Any, str]], *, topics: int
    ) -> None:
        self._keys = keys
        self._topics = topics
        self._publish_command = publish_command
        self._commit = commit
        self._targets: dict[str, _Target] = {}

    def publish(
        self, topic: str, given: Batch, settings: TopicSettings, *, fence: int | None, once: Once | None
    ) -> Receipt:
        """Append the events (at least one) that are not known yet, and see that all are as safe as was asked for."""
        fresh = given.without(given.repeated())
        known: list[int] = []
        while True:
            remember = once.value(known, fresh.count, given.count - fresh.count) if once else b""
            answer, lacking = self._call(topic, fresh, settings, fence, once.name if once else "", remember)
            match answer[0]:
                case b"known":
                    known += answer[2::2]
                    fresh = fresh.without(set(answer[1::2]))
                    if fresh.count or once is not None:
                        continue
                    receipt = _receipt(known, 0, given.count)
                case b"again" if once is not None:
                    receipt = once.receipt(answer[1])
                case b"kept":
                    receipt = _receipt(known, 0, given.count)
                case b"ahead":
                    raise _too_far_ahead(given, answer[1], settings)
                case b"crowded":
                    raise TooManyTopics(
                        f"there is no room for the topic {topic!r}: its partition has {self._topics} topics, as many "
                        "as it may have; nothing was stored"
                    )
                case b"full":
                    raise _full(topic, answer[1], answer[2], settings)
                case b"fenced":
                    raise Fenced(f"another aggregator owns the partition of {topic!r}")
                case _:
                    _, first, last, arrival, head = answer
                    duplicates = given.count - fresh.count
                    receipt = _receipt((*known, first, last), fresh.count, duplicates, arrival, head)
            _check_confirmed(lacking)
            return receipt

    def recall(self, topic: str, once: Once) -> Receipt | None:
        """Return the receipt of an earlier request, which is as safe as was asked for; None where there is none."""
        keys = [self._keys.partition(Log(topic).partition), *self._keys.ids(topic)]
        value, lacking = self._commit(Call(RECALL, keys, [once.name]))
        if not value:
            return None
        receipt = once.receipt(value)
        _check_confirmed(lacking)
        return receipt

    def _call(
        self, topic: str, batch: Batch, settings: TopicSettings, fence: int | None, key: str, remember: bytes
    ) -> tuple[Any, str]:
        target = self._target(topic, settings)
        args = [*target.args]
        if fence is not None:
            args[_FENCE] = fence
        args[_KEY], args[_NOTE] = key, remember
        pieces = list(batch.pieces(CHUNK_EVENTS, CHUNK_BYTES)) if batch.count else []
        args.append(len(pieces))
        for piece in pieces:
            args += _piece(piece)
        size = len(batch.data) + len(remember)
        if batch.ids is not None:
            args += batch.ids
            size += sum(map(len, batch.ids))
        return self._commit(Call(PUBLISH, target.keys, args, target.wakes, size))

    def _target(self, topic: str, settings: TopicSettings) -> _Target:
        """Return what all publish calls to a topic have in common."""
        target = self._targets.get(topic)
        if target is None or target.settings is not settings:
            if len(self._targets) == _TARGETS:
                self._targets.clear()
            target = self._targets[topic] = self._make_target(topic, settings)
        return target

    def _make_target(self, topic: str, settings: TopicSettings) -> _Target:
        keys, log = self._keys, Log(topic)
        bounded = settings.clock == "event" and not settings.jump and settings.longest
        names = (
            keys.partition(log.partition), keys.topics(log.partition), keys.log(log), keys.figures(log),
            *keys.ids(topic),
        )  # fmt: skip
        args = (
            RUN, self._publish_command, WAKE, keys.wake(log.partition), topic, "",
            settings.retention, kept_for_windows(settings),
            settings.longest if bounded else "", IDS_WINDOW, IDS_AT_MOST,
            self._topics, "", "",
            settings.last, settings.retention_age, settings.retention_bytes, settings.full_bytes,
        )  # fmt: skip
        return _Target(settings, names, args, keys.live(log))


def kept_for_windows(settings: TopicSettings) -> int:
    """Return the ms for which an entry stays in the log whatever the retention: a window may count it."""
    return settings.longest + 2 * FUTURE_ALLOWANCE


def _full(topic: str, held: int, wait: int, settings: TopicSettings) -> LogFull:
    return LogFull(
        f"the log of {topic!r} is full: it holds {held} bytes of events that its windows still count, and publishing "
        f"stops at {settings.full_bytes}, {FULL} times its retention_bytes; nothing was stored",
        wait,
    )


def _check_confirmed(lacking: str) -> None:
    if lacking:
        raise Unconfirmed(f"the events are in Redis, but {lacking}: repeating is safe with ids, or with the same key")


def _receipt(
    offsets: Iterable[int], accepted: int, duplicates: int, arrival: int | None = None, head: int | None = None
) -> Receipt:
    spanned = list(offsets)
    return Receipt(min(spanned), max(spanned), accepted, duplicates, arrival, head)


def _piece(piece: Batch) -> tuple[int, int | str, int | str, int, bytes]:
    """Return an entry to be: number of events, least and greatest time, whether an event has none, and the events."""
    if piece.times is None:
        return piece.count, "", "", 1, piece.data
    times = [time for time in piece.times if time is not None]
    least, greatest = (min(times), max(times)) if times else ("", "")
    return piece.count, least, greatest, int(len(times) < piece.count), piece.data


def _too_far_ahead(batch: Batch, head: int, settings: TopicSettings) -> InvalidBatch:
    faults = [
        Fault(line, "time", "more than the longest window ahead of the topic's event clock")
        for line, time in enumerate(batch.times or (), 1)
        if time is not None and time > head + settings.longest
    ] or [Fault(1, "time", "arrival is more than the longest window ahead of the topic's event clock")]
    return InvalidBatch(faults[:100], max(0, len(faults) - 100))
