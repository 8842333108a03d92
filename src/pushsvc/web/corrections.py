"""``/v1/topics/{topic}/events/{id}``: one event and its life, and its correction or deletion."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

from flask import Blueprint, Response, request

from pushsvc.alerts.rule import ALERTS_TOPIC
from pushsvc.auth.grants import Action
from pushsvc.broker.corrections import ERASED, StoredEvent
from pushsvc.broker.keys import Log
from pushsvc.broker.log import Mark
from pushsvc.clock import format_time
from pushsvc.components.outcomes import outcomes
from pushsvc.errors import (
    EventChanged,
    EventGone,
    Fault,
    InvalidBatch,
    NoEvent,
    NotGranted,
    ReservedTopic,
    UnsupportedMediaType,
)
from pushsvc.event import Event
from pushsvc.event.merge_patch import MERGE_PATCH, patched, read_patch
from pushsvc.event.replies import reply_topic
from pushsvc.pause import Pause
from pushsvc.settings import LATEST_BYTES, TopicSettings
from pushsvc.topic import check_topic
from pushsvc.web.authorization import granted
from pushsvc.web.context import Context
from pushsvc.web.long_requests import client_of
from pushsvc.web.parameters import Parameters
from pushsvc.web.responses import json_response

_LONGEST = 300  # characters of a name: those of an id have at most 200


def blueprint(context: Context) -> Blueprint:
    resource = Blueprint("corrections", __name__, url_prefix="/v1/topics/<topic>")
    path = "/events/<path:name>"

    @resource.get(path, merge_slashes=False)
    def show(topic: str, name: str) -> Response:
        Parameters(request.args, ())
        with context.long.reading(client_of(request)) as pause:
            found = _find(context, check_topic(topic), name, Action.SUBSCRIBE, pause)
            pause()
            life = _life(context, topic, found)
            pause()
        public = None if found.line is None else _public(topic, found, Event.decode(found.line))
        body = {"topic": topic, "offset": found.offset, "event": public, "life": life}
        response = _tagged(body, found.line, found.mark)
        response.make_conditional(request)
        return response

    @resource.patch(path, merge_slashes=False)
    def patch(topic: str, name: str) -> Response:
        return _patch(context, topic, name)

    @resource.delete(path, merge_slashes=False)
    def delete(topic: str, name: str) -> Response:
        return _delete(context, topic, name)

    return resource


def _patch(context: Context, topic: str, name: str) -> Response:
    _prepare(topic)
    if request.mimetype != MERGE_PATCH:
        raise UnsupportedMediaType(f"{MERGE_PATCH} is expected")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("a compressed body is not supported")
    with context.long.writing(client_of(request)) as pause:
        changes = read_patch(request.get_data(cache=False), context.limits, pause)
        while True:
            found = _find_alive(context, topic, name, pause)
            event = _changed(context, topic, found, changes, pause)
            mark = found.mark
            pause()
            if event.encode() != found.line:
                done = context.broker.corrections.correct(topic, _settings(context, topic), found, event, pause)
                if done is None:
                    continue  # it was corrected meanwhile, so the patch applies to that
                mark = Mark(done.offset, done.at)
            pause()
            return _answer(topic, found, event, mark)


def _delete(context: Context, topic: str, name: str) -> Response:
    erase = _prepare(topic, ("erase",)).choice("erase", ("true", "false"), "false") == "true"
    if erase and granted().keys(Action.MANAGE, topic) is not None:
        raise NotGranted("erase takes a grant to manage the topic, beside that to publish")
    settings, corrections = _settings(context, topic), context.broker.corrections
    with context.long.writing(client_of(request)) as pause:
        while True:
            found = _find(context, topic, name, Action.PUBLISH, pause)
            mark = found.mark
            if found.line is not None or not erase:
                _check_alive(found, name)
                done = corrections.correct(topic, settings, found, None, pause)
                if done is None:
                    continue
                mark = Mark(done.offset, done.at)
            if erase:
                corrections.erase(topic, settings, found, pause)
            return _answer(topic, found, None, mark)


def _prepare(topic: str, allowed: tuple[str, ...] = ()) -> Parameters:
    """Check what does not depend on the event, and count it for the client; return the parameters."""
    check_topic(topic)
    parameters = Parameters(request.args, allowed)
    if topic == ALERTS_TOPIC:
        raise ReservedTopic(f"the topic {topic!r} has the alerts, which only the server itself writes")
    client = client_of(request)
    client.check_events()
    client.count_events(1)
    return parameters


def _settings(context: Context, topic: str) -> TopicSettings:
    return context.rules.settings_of(topic)


def _find(context: Context, topic: str, name: str, action: Action, pause: Pause) -> StoredEvent:
    """Return the named event, if the request may see its key. Else it is as unknown as one that does not exist."""
    keys = granted().keys(action, topic)
    unknown = NoEvent(f"the log of {topic!r} has no event {name[:_LONGEST]!r}")
    if len(name) > _LONGEST:
        raise unknown
    try:
        found = context.broker.corrections.find(topic, name, pause)
    except NoEvent:
        if keys is None:
            raise
        raise unknown from None
    if keys is not None and Event.decode(found.line or found.published).key not in keys:
        raise unknown
    return found


def _find_alive(context: Context, topic: str, name: str, pause: Pause) -> StoredEvent:
    """Return the named event as it can be corrected. Raise NoEvent, EventGone, and EventChanged by ``If-Match``."""
    found = _find(context, topic, name, Action.PUBLISH, pause)
    _check_alive(found, name)
    return found


def _check_alive(found: StoredEvent, name: str) -> None:
    """Raise EventGone, and EventChanged by ``If-Match``."""
    if found.line is None:
        raise EventGone(f"the event {name!r} was deleted")
    if request.if_match and not request.if_match.contains(_tag(found.line, found.mark).strip('"')):
        raise EventChanged("the event is not the one that If-Match names; read it again")


def _changed(context: Context, topic: str, found: StoredEvent, changes: dict[str, Any], pause: Pause) -> Event:
    """Return the new form of an event, which may have megabytes. Raise InvalidBatch, NotGranted."""
    pause()
    before, settings = Event.decode(found.line or b"{}"), _settings(context, topic)
    pause()
    event = patched(before, changes, now=context.now(), limits=context.limits)
    pause()
    keys = granted().keys(Action.PUBLISH, topic)
    if keys is not None and event.key not in keys:
        named = "an event without a key" if event.key is None else f"the key {event.key!r}"
        raise NotGranted(f"{named} is not granted, so nothing was changed")
    replies = reply_topic(event.encode())
    if replies is not None and not granted().may(Action.SUBSCRIBE, replies):
        raise NotGranted(f"reply_to: reading {replies!r} is not granted, so nothing was changed")
    if settings.latest and len(event.encode()) > LATEST_BYTES:
        raise _fault(None, f"an event of this topic has at most {LATEST_BYTES} bytes")
    if settings.clock == "event" and not settings.jump and event.time is not None and event.time != before.time:
        head = int(context.broker.metadata([Log(topic)])[0].get("head", event.time))
        if event.time > head + settings.longest_window > head:
            raise _fault("time", "more than the longest window ahead of the topic's event clock")
    return event


def _fault(field: str | None, detail: str) -> InvalidBatch:
    return InvalidBatch([Fault(1, field, detail)])


def _public(topic: str, found: StoredEvent, event: Event) -> dict[str, Any]:
    return event.public(topic, found.offset, found.arrival)


def _tag(line: bytes, mark: Mark | None) -> str:
    """Return the ETag of a form of an event, which a correction has made."""
    digest = blake2b(line, digest_size=8).hexdigest()
    return f'"{0 if mark is None else mark.offset}-{digest}"'


def _answer(topic: str, found: StoredEvent, event: Event | None, mark: Mark | None) -> Response:
    body = {
        "topic": topic,
        "offset": found.offset,
        "event": None if event is None else _public(topic, found, event),
        "correction": None if mark is None else {"offset": mark.offset, "at": format_time(mark.at)},
    }
    return _tagged(body, None if event is None else event.encode(), mark)


def _tagged(body: dict[str, Any], line: bytes | None, mark: Mark | None) -> Response:
    """Return a response with the ETag of a form of the event; None: it was deleted."""
    response = json_response(body)
    if line is not None:
        response.headers["ETag"] = _tag(line, mark)
    return response


def _life(context: Context, topic: str, found: StoredEvent) -> list[dict[str, Any]]:
    """Return what is known of the life of an event, step by step."""
    settings, form = _settings(context, topic), Event.decode(found.line or found.published)
    steps: list[dict[str, Any]] = [{"step": "stored", "offset": found.offset, "at": format_time(found.arrival)}]
    if settings.windows and form.type != ERASED:
        counted: dict[str, Any] = {"step": "counted", "windows": _windows(settings, form, found)}
        steps.append(counted)
    steps += [{"step": "component", **one} for one in outcomes(context.broker, topic, found.offset)]
    for mark, correction in context.broker.corrections.of(topic, found):
        step = "deleted" if correction.deletes else "corrected"
        steps.append({"step": step, "offset": mark.offset, "at": format_time(mark.at)})
    if Event.decode(found.published).type == ERASED:
        steps.append({"step": "erased"})
    return steps


def _windows(settings: TopicSettings, event: Event, found: StoredEvent) -> list[str]:
    """Return the windows that an event came into, or comes into by its present form. An event clock, which is not
    known of the past, may have been ahead of it."""
    time = found.arrival if event.time is None else event.time
    by_arrival = settings.clock == "wall"
    return [
        window.name
        for window in settings.windows
        if not window.length or not by_arrival or time >= window.start(found.arrival)
    ]
