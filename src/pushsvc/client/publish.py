"""Publishing: events as a request body, and whether the request can be repeated."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from pushsvc.client.errors import ClientError
from pushsvc.client.session import JSON, Session


def publish(
    session: Session,
    path: str,
    events: Iterable[Mapping[str, Any]] | bytes,
    content_type: str,
    repeatable: bool | None,
) -> dict[str, Any]:
    """Publish events and return the receipt; ``Client.publish`` describes the arguments."""
    if isinstance(events, bytes):
        body, all_have_ids = events, False
    else:
        batch = list(events)
        body, all_have_ids = _encode(batch), all(event.get("id") is not None for event in batch)
        content_type = JSON
    if repeatable is None:
        repeatable = all_have_ids
    return session.retry(lambda: session.post(path, body, content_type), repeatable=repeatable)


def _encode(events: list[Mapping[str, Any]]) -> bytes:
    try:
        return json.dumps(events, allow_nan=False, ensure_ascii=False, separators=(",", ":"), default=_convert).encode()
    except (TypeError, ValueError) as error:
        raise ClientError(f"the events cannot be written as JSON: {error}") from error


def _convert(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"JSON has no {type(value).__name__}")
