"""10,000 keys with 32 fields in each of several topics: 330,000 rows a topic, in every window."""

from __future__ import annotations

import json

from hostile.calls import Answer, get, post

NAME = "10,000 keys of 32 fields in several topics"
POSTS = 4


def attack(url: str, topics: int = 3, keys: int = 10_000, fields: int = 32) -> list[Answer]:
    found = []
    share = keys // POSTS
    for topic in (f"hostile-keys-{number}" for number in range(topics)):
        for first in range(0, share * POSTS, share):
            events = [
                {"key": f"k{key}"} | {f"f{field}": key + field for field in range(fields)}
                for key in range(first, first + share)
            ]
            found.append(post(url, topic, json.dumps(events).encode()))
        found.append(get(url, f"/v1/topics/{topic}/stats?window=1m&top=1"))
    return found
