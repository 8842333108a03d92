"""Scans of a long log that find nothing: 60 at once, and 60 whose clients go at once."""

from __future__ import annotations

from hostile.calls import Answer, abandon, get_all, post

NAME = "120 scans"
TOPIC = "hostile-scans"
SCAN = f"/v1/topics/{TOPIC}/events?where=a=2"


def fill(url: str, topic: str, events: int) -> None:
    """Publish events ``{"a": 1}``."""
    for _ in range(0, events, 10_000):
        assert post(url, topic, b'{"a":1}\n' * min(events, 10_000), "application/x-ndjson").status == 202


def attack(url: str, events: int = 100_000, requests: int = 60) -> list[Answer]:
    fill(url, TOPIC, events)
    for _ in range(requests):
        abandon(url, SCAN)
    return get_all(url, [SCAN] * requests)
