"""What components have done with one event."""

from __future__ import annotations

from typing import Any

import msgspec

from pushsvc.broker.broker import Broker
from pushsvc.components.messages import Parked
from pushsvc.components.parked import parked_field


def outcomes(broker: Broker, topic: str, offset: int) -> list[dict[str, Any]]:
    """Return for each group that reads the topic its name and an ``outcome``: ``waiting`` (it has not come to the
    event), ``parked`` (after failed ``attempts``; 0: it waits for an earlier event of its key) or ``done``: handled,
    of a type without a handler, or given up."""
    found = []
    for group, position, parked in broker.components.found_of(topic, parked_field(topic, offset)):
        one: dict[str, Any] = {"group": group, "outcome": "done" if offset <= position else "waiting"}
        if parked is not None:
            attempts = msgspec.msgpack.decode(parked, type=Parked).attempts
            one = {"group": group, "outcome": "parked", "attempts": attempts}
        found.append(one)
    return found
