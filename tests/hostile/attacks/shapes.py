"""Events of ever new names, of which most nest. Each set of names is learned after 64 events."""

from __future__ import annotations

import json

from hostile.calls import Answer, post

NAME = "1,000 nested shapes"


def body(shape: int) -> bytes:
    """Return 64 events with 32 names, and one of them again, so that the learned shape is used."""
    names = [f"n{shape}x{name}" for name in range(32)]
    nested = {name: {"a": [{"b": 1}]} for name in names}
    return b"\n".join(json.dumps(event).encode() for event in [nested, *[{names[0]: [1]}] * 63])


def attack(url: str, shapes: int = 1_000) -> list[Answer]:
    answers = []
    for shape in range(shapes):
        topic = f"hostile-shapes-{shape % 50}"
        answers.append(post(url, topic, body(shape), "application/x-ndjson"))
        answers.append(post(url, topic, b"{}"))
    return answers
