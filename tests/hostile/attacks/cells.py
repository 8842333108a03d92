"""A CSV table of 1,500 events, each with 20 names of its own: 45 million cells."""

from __future__ import annotations

import json

from hostile.calls import Answer, get, post

NAME = "CSV of 30,000 names"
TOPIC = "hostile-cells"


def attack(url: str, events: int = 1_500, names: int = 20) -> list[Answer]:
    body = json.dumps([{f"n{event}x{name}": "x" for name in range(names)} for event in range(events)])
    stored = post(url, TOPIC, body.encode())
    return [stored, get(url, f"/v1/topics/{TOPIC}/events?format=csv&limit=10000")]
