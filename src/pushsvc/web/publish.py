"""Writes the events of a request's body to the log and returns the receipt or the problem.

Nothing here uses Flask's request, so a server may call it without Flask.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from itertools import count, repeat
from typing import Any

import orjson

from pushsvc.alerts.rule import ALERTS_TOPIC
from pushsvc.auth.grants import EVERYTHING, Action, Grants
from pushsvc.broker.publisher import IdempotencyKey, NewEvents, Receipt
from pushsvc.errors import (
    InvalidBatch,
    InvalidInput,
    LogFull,
    NotGranted,
    ReservedTopic,
    TooManyTopics,
    Unavailable,
    fault_members,
)
from pushsvc.event import Batch, Event, ParsedBatch
from pushsvc.event.replies import may_name_replies, reply_topic
from pushsvc.pause import Pause, no_pause
from pushsvc.settings import LATEST_BYTES, TopicSettings
from pushsvc.topic import check_topic
from pushsvc.web import metrics
from pushsvc.web.context import Context
from pushsvc.web.long_requests import UNKNOWN, Requester
from pushsvc.web.problem import problem_of
from pushsvc.web.responses import BatchResponse, HttpResponse

_HINT = (
    'every event is older than the longest window, so none is counted; for past data set clock = "event" for this topic'
)
_NOTHING: Mapping[str, str] = {}
_HEADERS = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
_KEY = re.compile("[ -~]{1,200}")
_DIGESTED = 1_000_000  # bytes of a body between two pauses: 1 to 2 ms


def publish(  # noqa: PLR0913 - what a request may say
    context: Context,
    topic: str,
    content_type: str,
    body: bytes,
    *,
    skip: bool = False,
    columns: Mapping[str, str] = _NOTHING,
    ce_headers: Mapping[str, str] = _NOTHING,
    idempotency_key: str | None = None,
    client: Requester = UNKNOWN,
    keys: frozenset[str] | None = None,
    grants: Grants = EVERYTHING,
) -> HttpResponse:
    """Publish the events of ``body``, and answer once they are in the log. Never raises.

    ``skip`` stores the valid events of a body that has invalid ones; ``columns`` maps attributes to CSV columns;
    ``ce_headers`` are the headers of a CloudEvent. A repeated request with the same ``idempotency_key`` gets the first
    answer, and its events are stored once. Every event must have one of the ``keys``, unless they are None, and may ask
    for replies only in topics that ``grants`` let the publisher read.
    """
    try:
        settings = context.rules.settings_of(check_topic(topic))
        if topic == ALERTS_TOPIC:
            raise ReservedTopic(f"the topic {topic!r} has the alerts, to which only the server itself publishes")
        client.check_events()
        now = context.now()
        key = None
        if idempotency_key is not None:
            request = [content_type, skip, sorted(columns.items()), *sorted(ce_headers.items())]
            key = _key_of(idempotency_key, request, body, now, context.long.pauses())
        read = partial(
            _read, context, client, topic, settings, body, content_type, columns=columns, ce_headers=ce_headers
        )
        try:
            parsed = read(now=now)
            replies = not grants.subscribe.is_everything and may_name_replies(parsed.batch.data)
            if keys is not None or replies:
                pauses = no_pause if len(body) <= context.long.limits.short_body else context.long.pauses()
                if keys is not None:
                    _check_keys(parsed, keys, pauses)
                if replies:
                    _check_replies(parsed, grants, pauses)
            client.count_events(parsed.batch.count)
            receipt = _store(context, topic, parsed, settings, skip, key)
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
        if parsed.faults:
            _note_refusal(context, topic, parsed.faults[0].detail)
        return _accepted(topic, parsed, receipt, settings)
    except Exception as error:  # noqa: BLE001 - becomes a problem
        return _problem_of(error, topic)


def _read(
    context: Context, client: Requester, topic: str, settings: TopicSettings, body: bytes, content_type: str,
    **arguments: Any,
) -> ParsedBatch:  # fmt: skip
    """Return the events of a body, as far as the topic takes them."""
    parsed = _read_body(context, client, topic, body, content_type, **arguments)
    return parsed.without_larger(LATEST_BYTES) if settings.latest else parsed


def _read_body(
    context: Context, client: Requester, topic: str, body: bytes, content_type: str, **arguments: Any
) -> ParsedBatch:
    """Return the events of a body. All but a short one is read in slices, and a large one waits for its turn."""
    if len(body) <= context.long.limits.short_body:
        return context.reader.read(topic, body, content_type, **arguments)
    if len(body) <= context.long.limits.body:
        return context.reader.read(topic, body, content_type, **arguments, pause=context.long.pauses())
    with context.long.writing(client) as pause:
        batch = context.reader.read(topic, body, content_type, **arguments, pause=pause)
        pause()  # what follows sends all of it
        return batch


def _check_keys(parsed: ParsedBatch, keys: frozenset[str], pause: Pause) -> None:
    """Refuse a batch that has an event without one of the keys."""
    if not parsed.batch.count:
        return
    for line, data in zip(parsed.lines, parsed.batch.data.split(b"\n"), strict=True):
        pause()
        key = Event.decode(data).key
        if key not in keys:
            named = "an event without a key" if key is None else f"the key {key!r}"
            raise NotGranted(f"line {line}: {named} is not granted, so nothing was stored")


def _check_replies(parsed: ParsedBatch, grants: Grants, pause: Pause) -> None:
    """Refuse a batch that asks for replies in a topic that its publisher may not read: a component would write there
    what the publisher has no right to."""
    for line, data in zip(parsed.lines, parsed.batch.data.split(b"\n"), strict=True):
        pause()
        topic = reply_topic(data)
        if topic is not None and not grants.may(Action.SUBSCRIBE, topic):
            raise NotGranted(f"line {line}: reply_to: reading {topic!r} is not granted, so nothing was stored")


def publish_batches(context: Context, posts: Mapping[str, Sequence[bytes]]) -> list[BatchResponse | None]:
    """Publish the JSON bodies of several requests, of one event each, by topic, in one round trip. Never raises.

    Return for each topic what ``publish`` would answer to its requests. None means that nothing was stored and that
    each body must be published on its own.
    """
    now = context.now()
    found: list[BatchResponse | None] = []
    ready: list[tuple[int, NewEvents]] = []
    for topic, bodies in posts.items():
        answer = None
        try:
            settings = context.rules.settings_of(check_topic(topic))
            batch = _read_posts(context, topic, settings, bodies, now)
        except Exception as error:  # noqa: BLE001 - becomes a problem
            answer = _problem_of_posts(error, topic, bodies)
        else:
            if batch is not None:
                ready.append((len(found), NewEvents(topic, batch, settings)))
        found.append(answer)
    receipts: Sequence[Receipt | Exception | None]
    try:
        receipts = context.broker.publish_together([events for _, events in ready]) if ready else []
    except Exception as error:  # noqa: BLE001 - becomes a problem
        receipts = [error] * len(ready)
    accepted = late = 0
    for (place, events), receipt in zip(ready, receipts, strict=True):
        if isinstance(receipt, Receipt):
            too_late = _late(events.batch, receipt, events.settings)
            accepted, late = accepted + events.batch.count, late + sum(too_late)
            found[place] = _accepted_posts(events, receipt, too_late)
        elif receipt is not None:
            found[place] = _problem_of_posts(receipt, events.topic, posts[events.topic])
    metrics.count_published(accepted, 0, 0, late)
    return found


def _read_posts(
    context: Context, topic: str, settings: TopicSettings, bodies: Sequence[bytes], now: int
) -> Batch | None:
    """Return the events of bodies with one event each; None if each must be published on its own."""
    if topic == ALERTS_TOPIC or settings.clock != "wall":  # which events are late depends on their order
        return None
    batch = context.reader.read_together(topic, bodies, now=now)
    if batch is None or (settings.latest and batch.larger(LATEST_BYTES)):
        return None
    return None if may_name_replies(batch.data) else batch  # what each publisher may read is not known here


def _accepted_posts(events: NewEvents, receipt: Receipt, late: Sequence[bool]) -> BatchResponse:
    """Return the answers to posts, of which some may have been too ``late`` (none: no one was)."""
    topic, batch, _ = events
    answers = [
        orjson.dumps(_receipt_body(topic, accepted=1, late=int(too_late), first=offset, last=offset, hinted=too_late))
        for offset, too_late in zip(count(receipt.first_offset), late or repeat(False, batch.count))
    ]
    return BatchResponse(202, _HEADERS, answers)


def _problem_of_posts(error: Exception, topic: str, bodies: Sequence[bytes]) -> BatchResponse:
    problem = _problem_of(error, topic, len(bodies))
    return BatchResponse(problem.status, problem.headers, [problem.body] * len(bodies))


def _problem_of(error: Exception, topic: str, requests: int = 1) -> HttpResponse:
    """Return the problem of an error, and count the ``requests`` that it refuses."""
    if isinstance(error, TooManyTopics):
        metrics.CROWDED.inc(requests)
    elif isinstance(error, Unavailable):
        metrics.UNAVAILABLE.labels(problem=error.slug).inc(requests)
    return problem_of(error, f"POST /v1/topics/{topic}/events")


def _key_of(key: str, request: list[Any], body: bytes, now: int, pause: Pause) -> IdempotencyKey:
    """Return the fingerprint of a request and its body, which distinguishes it from other requests with its key.

    The time of the first validation is stored with it: a repeated body that is validated with that time gets the same
    answer.
    """
    if not _KEY.fullmatch(key):
        raise InvalidInput("Idempotency-Key: 1 to 200 printable ASCII characters are expected")
    digest = blake2b(orjson.dumps(request) + b"\n", digest_size=12)
    for begin in range(0, len(body), _DIGESTED):
        digest.update(body[begin : begin + _DIGESTED])
        pause()
    return IdempotencyKey(key, digest.hexdigest(), b"%d" % now)


def _store(
    context: Context, topic: str, parsed: ParsedBatch, settings: TopicSettings, skip: bool, key: IdempotencyKey | None
) -> Receipt:
    if parsed.faults and not (skip and parsed.batch.count):
        # An earlier request may have stored these events: another machine's clock may have judged them valid.
        earlier = None if key is None else context.broker.recall(topic, key)
        if earlier is None:
            raise InvalidBatch(parsed.faults, parsed.more)
        return earlier
    pause = no_pause if len(parsed.batch.data) <= context.long.limits.short_body else context.long.pauses()
    try:
        return context.broker.publish(topic, parsed.batch, settings, idempotency=key, pause=pause)
    except InvalidBatch as error:  # the broker numbers the events, the producer numbers lines
        faults = [replace(fault, line=parsed.lines[fault.line - 1]) for fault in error.faults]
        raise InvalidBatch(faults, error.more) from None


def _note_refusal(context: Context, topic: str, detail: str) -> None:
    """Count a refusal in the topic's metadata, if Redis is reachable."""
    with suppress(Unavailable):
        context.broker.record_refusal(topic, detail)


def _accepted(topic: str, parsed: ParsedBatch, receipt: Receipt, settings: TopicSettings) -> HttpResponse:
    late = sum(_late(parsed.batch, receipt, settings))
    if not receipt.replayed:
        metrics.count_published(receipt.accepted, receipt.duplicates, parsed.rejected, late)
    body = _receipt_body(
        topic, accepted=receipt.accepted, duplicates=receipt.duplicates, rejected=parsed.rejected, late=late,
        first=receipt.first_offset, last=receipt.last_offset,
        hinted=settings.clock == "wall" and late == parsed.batch.count > 0,
    )  # fmt: skip
    if parsed.faults:
        body |= fault_members(parsed.faults, parsed.more)
    return HttpResponse(202, _HEADERS, orjson.dumps(body))


def _receipt_body(
    topic: str, *, accepted: int, duplicates: int = 0, rejected: int = 0, late: int, first: int, last: int, hinted: bool
) -> dict[str, Any]:
    """Return the receipt; ``hinted`` adds why none of the events is counted."""
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
    if clock is None or batch.times is None:
        return []
    start = settings.late_before(clock)
    return [] if start is None else [time is not None and time < start for time in batch.times]
