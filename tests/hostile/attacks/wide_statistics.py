"""A topic with as many keys and fields as it may have, and requests for all rows of all its windows."""

from __future__ import annotations

import time

import orjson

from hostile.calls import Answer, get, get_all, post

NAME = "statistics of 10,000 keys"
TOPIC = "hostile.wide"
PATH = f"/v1/topics/{TOPIC}/stats?window=*"
SECONDS = 60.0


def attack(url: str, keys: int = 10_000, fields: int = 32, requests: int = 2) -> list[Answer]:
    for begin in range(0, keys, 2_500):
        events = [
            {"key": f"key {key}", **{f"field{field}": 0.5 + key for field in range(fields)}}
            for key in range(begin, min(begin + 2_500, keys))
        ]
        stored = post(url, TOPIC, orjson.dumps(events))
    if stored.status != 202:
        return [stored]
    end = time.monotonic() + SECONDS
    while get(url, f"{PATH}&at_least={keys}&key=none").status != 200 and time.monotonic() < end:
        time.sleep(0.1)
    return [get(url, f"/v1/topics/{TOPIC}/stats?window=*&format=csv"), *get_all(url, [PATH] * requests)]
