"""Publishing: a request's body to the log, and the receipt or the problem as an answer.

Nothing here knows of Flask's request: a server may call ``publish`` by itself. It never raises.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from itertools import count, repeat
from typing import Any

import orjson

from pushsvc.broker.publisher import IdempotencyKey, Receipt
from pushsvc.errors import InvalidBatch, InvalidInput, LogFull, TooManyTopics, Unavailable, fault_members
from pushsvc.event import Batch, ParsedBatch
from pushsvc.settings import TopicSettings
from pushsvc.topic import check_topic
from pushsvc.web import metrics
from pushsvc.web.answer import Answer, Answers
from pushsvc.web.context import Context
from pushsvc.web.problem import answer_to

_HINT = (
    "every event is older than the longest window, so none is counted; "
    'for data of the past set clock = "event" for this topic'
)
_NO_COLUMNS: Mapping[str, str] = {}
_HEADERS = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
_KEY = re.compile("[ -~]{1,200}")


def publish(
    context: Context,
    topic: str,
    content_type: str,
    body: bytes,
    *,
    skip: bool = False,
    columns: Mapping[str, str] = _NO_COLUMNS,
    idempotency_key: str | None = None,
) -> Answer:
    """Publish the events of ``body`` and return once they are in the log.

    ``skip`` stores the good events beside bad ones; ``columns`` maps attributes to CSV columns. A request that comes
    again with its ``idempotency_key`` is answered as it was, and stored once.
    """
    try:
        settings = context.rules.settings_of(check_topic(topic))
        now = context.now()
        idempotency = (
            None if idempotency_key is None else _idempotency(idempotency_key, content_type, skip, columns, body, now)
        )
        read = partial(context.reader.read, topic, body, content_type, columns=columns)
        try:
            reading = read(now=now)
            receipt = _store(context, topic, reading, settings, skip, idempotency)
        except InvalidBatch as error:
            metrics.REJECTED.inc(len(error.faults) + error.more)
            _note_refusal(context, topic, error.detail)
            raise
        except LogFull as error:
            _note_refusal(context, topic, error.detail)
            raise
        if receipt.replayed:
            metrics.REPEATED.inc()
            return _accepted(topic, read(now=int(receipt.note)), receipt, settings)
        if reading.faults:
            _note_refusal(context, topic, reading.faults[0].detail)
        return _accepted(topic, reading, receipt, settings)
    except TooManyTopics as error:
        metrics.CROWDED.inc()
        return answer_to(error, f"POST /v1/topics/{topic}/events")
    except Unavailable as error:
        metrics.UNAVAILABLE.labels(problem=error.slug).inc()
        return answer_to(error, f"POST /v1/topics/{topic}/events")
    except Exception as error:  # noqa: BLE001 - becomes a 500, and the log says what it was
        return answer_to(error, f"POST /v1/topics/{topic}/events")


def publish_together(context: Context, topic: str, bodies: Sequence[bytes]) -> Answers | None:
    """Publish bodies of JSON that are one event each, of as many requests to a topic, as one: what ``publish`` would
    answer to each. None where that is not possible; then nothing was stored, and each is to be published by itself."""
    try:
        settings = context.rules.settings_of(topic)
        if settings.clock != "wall":
            return None  # which of them are late depends on their order
        batch = context.reader.read_together(topic, bodies, now=context.now())
        receipt = None if batch is None else context.broker.publish_new(topic, batch, settings)
    except Unavailable as error:
        metrics.UNAVAILABLE.labels(problem=error.slug).inc(len(bodies))
        return _to_all(answer_to(error, f"POST /v1/topics/{topic}/events"), len(bodies))
    except Exception as error:  # noqa: BLE001 - becomes a 500, and the log says what it was
        return _to_all(answer_to(error, f"POST /v1/topics/{topic}/events"), len(bodies))
    if batch is None or receipt is None:
        return None
    late = _late(batch, receipt, settings)
    metrics.count_published(batch.count, 0, 0, sum(late))
    texts = [
        orjson.dumps(_body(topic, 1, 0, 0, int(too_late), offset, offset, too_late))
        for offset, too_late in zip(count(receipt.first_offset), late or repeat(False, batch.count))
    ]
    return Answers(202, _HEADERS, texts)


def _to_all(answer: Answer, requests: int) -> Answers:
    return Answers(answer.status, answer.headers, [answer.body] * requests)


def _idempotency(
    key: str, content_type: str, skip: bool, columns: Mapping[str, str], body: bytes, now: int
) -> IdempotencyKey:
    """Return what tells the request from another one with its key, the same in every process.

    The time by which it was judged is remembered with it: judged again by that, the body gives the same answer.
    """
    if not _KEY.fullmatch(key):
        raise InvalidInput("Idempotency-Key: 1 to 200 printable ASCII characters are expected")
    asked = orjson.dumps([content_type, skip, sorted(columns.items())])
    return IdempotencyKey(key, blake2b(asked + b"\n" + body, digest_size=12).hexdigest(), b"%d" % now)


def _store(
    context: Context,
    topic: str,
    reading: ParsedBatch,
    settings: TopicSettings,
    skip: bool,
    idempotency: IdempotencyKey | None,
) -> Receipt:
    if reading.faults and not (skip and reading.batch.count):
        # What was good then may be judged otherwise by another clock, and it is in the log.
        earlier = None if idempotency is None else context.broker.recall(topic, idempotency)
        if earlier is None:
            raise InvalidBatch(reading.faults, reading.more)
        return earlier
    try:
        return context.broker.publish(topic, reading.batch, settings, idempotency=idempotency)
    except InvalidBatch as error:  # it counts the events; the producer counts lines
        faults = [replace(fault, line=reading.lines[fault.line - 1]) for fault in error.faults]
        raise InvalidBatch(faults, error.more) from None


def _note_refusal(context: Context, topic: str, detail: str) -> None:
    """Let the topic's figures tell; a refusal stays one where Redis is away."""
    with suppress(Unavailable):
        context.broker.record_refusal(topic, detail)


def _accepted(topic: str, reading: ParsedBatch, receipt: Receipt, settings: TopicSettings) -> Answer:
    late = sum(_late(reading.batch, receipt, settings))
    if not receipt.replayed:
        metrics.count_published(receipt.accepted, receipt.duplicates, reading.rejected, late)
    hinted = settings.clock == "wall" and late == reading.batch.count > 0
    first, last = receipt.first_offset, receipt.last_offset
    body = _body(topic, receipt.accepted, receipt.duplicates, reading.rejected, late, first, last, hinted)
    if reading.faults:
        body |= fault_members(reading.faults, reading.more)
    return Answer(202, _HEADERS, orjson.dumps(body))


def _body(
    topic: str, accepted: int, duplicates: int, rejected: int, late: int, first: int, last: int, hinted: bool
) -> dict[str, Any]:
    body: dict[str, Any] = {
        "topic": topic,
        "accepted": accepted,
        "duplicates": duplicates,
        "rejected": rejected,
        "late": late,
        "first_offset": first,
        "last_offset": last,
    }
    if hinted:
        body["hint"] = _HINT
    return body


def _late(batch: Batch, receipt: Receipt, settings: TopicSettings) -> list[bool]:
    """Return for each event whether it was too old for every window when it arrived; [] if no event was."""
    clock = receipt.arrival if settings.clock == "wall" else receipt.head
    start = None if clock is None else settings.late_before(clock)
    if start is None or batch.times is None:
        return []
    return [time is not None and time < start for time in batch.times]
