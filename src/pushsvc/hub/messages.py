"""Entries as event-stream bytes: made once for all who want them alike, but for the line with the id."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import orjson

from pushsvc import sse
from pushsvc.broker.keys import Log
from pushsvc.broker.log import EventsEntry, FrameKind, StatisticsEntry
from pushsvc.hub.window_state import Selection, encode_frame
from pushsvc.system_clock import now_ms

OPENING = sse.retry(2_000) + sse.comment("pushsvc")
_EVENT_NAMES = {FrameKind.UPDATE: "update", FrameKind.SNAPSHOT: "snapshot"}


class Rendering:
    """What is made of the entries of one read, for as long as they are handed out."""

    def __init__(self) -> None:
        self._made: dict[Hashable, Any] = {}

    def statistics(self, entry: StatisticsEntry, selection: Selection) -> bytes | None:
        """Return the message of an update or snapshot; None where nothing of it is selected, or nobody needs it."""
        key = (id(entry), selection)
        if key not in self._made:
            self._made[key] = self._statistics(entry, selection)
        message: bytes | None = self._made[key]
        return message

    def _statistics(self, entry: StatisticsEntry, selection: Selection) -> bytes | None:
        if entry.kind is FrameKind.BASELINE:
            return None
        if selection.everything:
            return sse.encode(entry.data, event=_EVENT_NAMES[entry.kind])
        return update(entry.frame, selection) if entry.kind is FrameKind.UPDATE else snapshot(entry.frame, selection)

    def events(self, of: Log, entry: EventsEntry, named: bool) -> list[bytes]:
        """Return a message for each event of an entry."""
        key = (id(entry), named)
        if key not in self._made:
            self._made[key] = events(of, entry, named)
        messages: list[bytes] = self._made[key]
        return messages


def events(of: Log, entry: EventsEntry, named: bool) -> list[bytes]:
    """Return a message for each event; one that is ``named`` has its type as event name, but for the reserved."""
    messages = []
    for offset, event in enumerate(entry.events, entry.first):
        name = event.type if named and event.type != "message" and event.type not in sse.RESERVED_NAMES else None
        messages.append(sse.encode(orjson.dumps(event.public(of.topic, offset, entry.arrival)), event=name))
    return messages


def snapshot(frame: Mapping[str, Any], selection: Selection) -> bytes:
    """Return a state as a message."""
    return sse.encode(encode_frame(selection.apply(frame)), event="snapshot")


def update(frame: Mapping[str, Any], selection: Selection) -> bytes | None:
    """Return an update as a message; None where nothing of it is selected."""
    selected = selection.apply(frame)
    if not selected["data"] and not selected.get("gone"):
        return None
    return sse.encode(encode_frame(selected), event="update")


def reset(topic: str, reason: str) -> bytes:
    return sse.encode(orjson.dumps({"topic": topic, "reason": reason}), event="reset")


def heartbeat(visible: bool, id: str | None) -> bytes:
    if visible:
        return sse.encode(b'{"at":%d}' % now_ms(), event="heartbeat", id=id)
    return sse.comment("heartbeat") + (b"" if id is None else sse.move_cursor(id))
