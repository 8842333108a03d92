"""Emitted events on their way from the partition that committed them to the logs of their topics.

They are in the outbox since the commit, and numbered. A partition refuses numbers that it has had, so events that were
sent twice are stored once, and a later owner may send what an earlier one may not have sent.

Events that a log refuses for good become dead events by another commit. So a repeated send finds the same events.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from pushsvc.broker.broker import Broker
from pushsvc.broker.components import EmittedBatch, GroupOwner
from pushsvc.components import metrics
from pushsvc.components.messages import Emitted
from pushsvc.errors import InvalidBatch, PushError, Unavailable
from pushsvc.event import Batch
from pushsvc.settings import TopicRules
from pushsvc.topic import is_dead, partition_of

log = logging.getLogger(__name__)

_FLUSH = 1_000  # ms after which sent events leave the outbox without another commit


def gather(emitted: Sequence[Emitted]) -> list[EmittedBatch]:
    """Return events by topic, each topic's in their order."""
    topics: dict[str, list[Emitted]] = {}
    for one in emitted:
        topics.setdefault(one.topic, []).append(one)
    return [
        EmittedBatch(
            topic, b"\n".join([one.line for one in some]), len(some),
            [one.id for one in some] if any(one.id for one in some) else None,
            [one.time for one in some] if any(one.time is not None for one in some) else None,
        )
        for topic, some in topics.items()
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Refusal:
    """Events of the commit ``number`` in their stored form that the log of ``topic`` refuses for good, and the ``rest``
    of that commit. Dead events that are refused have no ``lines``: there is no place for them."""

    number: int
    topic: str
    reason: str
    lines: list[bytes]
    rest: list[EmittedBatch]


class Outbox:
    """The emitted events of one partition of a group."""

    def __init__(self, broker: Broker, rules: TopicRules, group: str) -> None:
        self._broker, self._rules, self._group = broker, rules, group
        self._waiting: dict[int, list[EmittedBatch]] = {}  # by the number of the last one
        self.sent: list[int] = []  # numbers that may leave Redis with the next commit
        self.flush_at: int | None = None

    def load(self, stored: dict[int, list[EmittedBatch]]) -> None:
        self._waiting, self.sent, self.flush_at = dict(stored), [], None

    def add(self, number: int, batches: list[EmittedBatch]) -> None:
        """Note the batches of a commit. The last one has its number, each one before it the number before."""
        if batches:
            self._waiting[number] = batches

    @property
    def is_waiting(self) -> bool:
        """Whether some events may not be in their logs yet."""
        return bool(self._waiting)

    def send(self, owner: GroupOwner, now: int) -> Refusal | None:
        """Append the events to their logs in their order; return the first events that a log refuses for good, which
        have to be taken out before more are sent. Raise Unavailable if a log cannot take events now."""
        for number, batches in list(self._waiting.items()):
            for place, batch in enumerate(batches):
                refusal = self._publish(owner, number, place) if batch.count else None
                if refusal is not None:
                    return refusal
            del self._waiting[number]
            self.sent.append(number)
            self.flush_at = now + _FLUSH
        return None

    def replace(self, refusal: Refusal) -> None:
        """Note that the events that a log refused were taken out."""
        self._waiting[refusal.number] = refusal.rest

    def _publish(self, owner: GroupOwner, number: int, place: int) -> Refusal | None:
        batches = self._waiting[number]
        emitted = batches[place]
        topic, batch = emitted.topic, Batch(emitted.data, emitted.count, emitted.ids, emitted.times)
        emission = self._broker.components.emission(owner, partition_of(topic), number - len(batches) + 1 + place)
        try:
            self._broker.publish(topic, batch, self._rules.settings_of(topic), emission=emission)
        except Unavailable:
            raise
        except PushError as error:
            every = range(batch.count)
            refused = sorted({fault.line - 1 for fault in error.faults} if isinstance(error, InvalidBatch) else every)
            metrics.REFUSED_EMITS.labels(self._group).inc(len(refused))
            log.warning("group %s: %s refuses %d emitted events: %s", self._group, topic, len(refused), error.detail)
            rest = [*batches[:place], _as_emitted(topic, batch.without(refused)), *batches[place + 1 :]]
            lines = [] if is_dead(topic) else batch.select(refused).data.split(b"\n")
            return Refusal(number, topic, error.detail, lines, rest)
        metrics.EMITTED.labels(self._group).inc(batch.count)
        batches[place] = EmittedBatch(topic, b"", 0, None, None)
        return None


def _as_emitted(topic: str, batch: Batch) -> EmittedBatch:
    ids = None if batch.ids is None else list(batch.ids)
    return EmittedBatch(topic, batch.data, batch.count, ids, None if batch.times is None else list(batch.times))
