"""A history with 300 conditions, and one with as many as are allowed, over a long log."""

from __future__ import annotations

from hostile.attacks.scans import fill
from hostile.calls import Answer, get

NAME = "300 conditions"
TOPIC = "hostile-conditions"


def attack(url: str, events: int = 100_000) -> list[Answer]:
    fill(url, TOPIC, events)
    begin = f"/v1/topics/{TOPIC}/events?limit=10000"
    return [get(url, begin + "&where=a=1" * 300), get(url, begin + "&where=a=1" * 20)]
