"""Changes of a stored event by a JSON Merge Patch (RFC 7396)."""

from __future__ import annotations

from typing import Any

import orjson

from pushsvc.errors import Fault, InvalidBatch
from pushsvc.event.model import Event, Limits
from pushsvc.event.strictjson import NotJson, has_more_values, load
from pushsvc.event.validator import EventValidator, InvalidEvent, check_nested
from pushsvc.pause import Pause, no_pause

MERGE_PATCH = "application/merge-patch+json"


def read_patch(body: bytes, limits: Limits, pause: Pause = no_pause) -> dict[str, Any]:
    """Return the patch of an event; raise InvalidBatch."""
    if has_more_values(body, limits.values, pause):
        raise _fault(None, f"more than {limits.values} values, counted on all levels of nesting")
    try:
        patch = load(body)
    except NotJson as error:
        raise InvalidBatch([Fault(error.line, None, f"not JSON, at column {error.column}: {error.detail}")]) from None
    if type(patch) is not dict:
        raise _fault(None, "an object is expected: the members to change, with null for those to remove")
    try:
        for name, value in patch.items():
            if name.startswith("$"):
                raise InvalidEvent(name[:60], "it cannot change: names that begin with $ are reserved")
            check_nested(name, value, limits.depth - 1)
    except InvalidEvent as error:
        raise _fault(error.field, error.detail) from None
    return patch


def patched(event: Event, patch: dict[str, Any], *, now: int, limits: Limits) -> Event:
    """Return an event with the changes of a patch; raise InvalidBatch. ``now`` (ms) bounds its time."""
    flat: dict[str, Any] = orjson.loads(event.encode())
    kept = flat.pop("time", None)
    if "id" in patch and patch["id"] != event.id:
        raise _fault("id", "it cannot change")
    merged = _merge(flat, patch)
    try:
        found = EventValidator(now, limits).validate(merged)
    except InvalidEvent as error:
        raise _fault(error.field, error.detail) from None
    if "time" not in patch:
        found.time = kept
    return found


def _merge(target: Any, patch: Any) -> Any:
    """Return what RFC 7396 calls MergePatch(target, patch). The depth of a patch is bounded."""
    if type(patch) is not dict:
        return patch
    merged = dict(target) if type(target) is dict else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merge(merged.get(name), value)
    return merged


def _fault(field: str | None, detail: str) -> InvalidBatch:
    return InvalidBatch([Fault(1, field, detail)])
