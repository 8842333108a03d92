"""The topics of a server that is searched."""

from __future__ import annotations

import json
import time
from typing import Any

from hostile.calls import create_topics, get, post

KEY = "0123456789abcdef0123456789abcdef"
SETTINGS = f"""
[topics."search.many"]
windows = ["1h", "24h"]
[topics."*.index"]
index = ["key", "user", "type"]
[topics."*.windows"]
windows = ["10s", "15m", "24h", "last 1000", "last 100000", "all"]
statistics = {json.dumps([f"p{percent}" for percent in range(5, 100, 5)])}
[topics."*.values"]
values = ["user", "dish", "n"]
statistics = ["p50", "distinct", "top100", "first", "last"]
key = ["key", "user", "key+user"]
[topics."*.exact"]
exact = true
[topics."search.parts"]
parts = 2
[topics."search.event"]
windows = ["1h", "24h"]
clock = "event"
[topics."*.latest"]
latest = true
"""
CREDENTIALS = f'jwt_key = "{KEY}"\nanonymous_publish = [">"]\nanonymous_subscribe = [">"]\n'

READ = ["many", "plain", "long", "index", "windows", "values", "exact", "parts", "latest", "event", "big"]
"""Last segments of the topics ``search.…``, which hold events."""

WRITTEN = ["plain", "index", "windows", "values", "exact", "latest"]
"""Last segments of the topics ``write.…``, to which the search publishes."""

LISTED = 2_000
BATCH = 5_000
DAY = 86_400_000  # ms


def event(number: int, fields: int, text: int) -> dict[str, Any]:
    """Return an event with an id. 10,000 of them have different keys, 100 different users."""
    return {
        "id": f"i{number}", "key": f"k{number % 10_000}", "user": f"u{number % 100}", "dish": f"d{number}", "n": number,
        "note": "é" * text, **{f"f{field}": number + 0.1 * field for field in range(fields)},
    }  # fmt: skip


def fill(url: str) -> str:
    """Publish events to all topics, create many small ones, and return a cursor."""
    sizes = {"many": (20_000, 8, 10), "plain": (100_000, 1, 10), "long": (1_000, 1, 10_000)}
    for large in (["x" * 7_000_000], [["é" * 3_000_000], 1], [1] * 98_000):
        assert post(url, "search.big", json.dumps({"note": large}, ensure_ascii=False).encode()).status == 202
    day = int(time.time() * 1_000) - DAY
    for topic in READ[:-1]:
        count, fields, text = sizes.get(topic, (20_000, 2, 10))
        batch = 100 if topic == "long" else BATCH
        for begin in range(0, count, batch):
            events = [event(number, fields, text) for number in range(begin, begin + batch)]
            if topic == "event":
                events = [one | {"time": day + one["n"] * DAY // count} for one in events]
            answer = post(url, f"search.{topic}", json.dumps(events).encode())
            assert answer.status == 202, answer.body[:500]
        get(url, f"/v1/topics/search.{topic}/stats?window=*&key=none&at_least={count}")
    create_topics(url, [f"list.{number % 50}.t{number}" for number in range(LISTED)])
    page = get(url, "/v1/topics/search.plain/events?limit=1").json()
    return str(page["next"])
