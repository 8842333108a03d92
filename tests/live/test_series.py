"""Series against what a stream recorded of the same topic, and after its log was deleted."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from support.oracle import instant
from support.stack import Stack
from support.waiting import until

SETTINGS = """
[topics."series.*"]
windows = ["10s"]
statistics = ["p50", "p95"]
cadence_ms = 0
"""
STATISTICS = ("count", "rate", "sum", "mean", "min", "max", "p50", "p95")
PANE = 250
NOTHING = {"count": 0}


@pytest.fixture(scope="module")
def charted(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(redis_url, f"test-{os.getpid()}-charted:", tmp_path_factory.mktemp("charted")) as stack:
        stack.configure(SETTINGS)
        stack.start_aggregator()
        stack.start_web()
        yield stack


def some_events(chance: random.Random, newest: int | None) -> list[dict[str, object]]:
    """Return events of which some came late; the last one has no time, so that history tells when they arrived."""
    events: list[dict[str, object]] = [
        {"key": chance.choice("ab"), "x": chance.choice((0.1, 0.2, chance.random()))} for _ in range(3)
    ]
    if newest is not None:
        events[0]["time"] = newest - chance.choice((700, 4_000, 20_000))
    return events


def asked(stack: Stack, topic: str, query: str) -> dict:
    answer = stack.get(f"/v1/topics/{topic}/stats/series?{query}")
    assert answer.status == 200, answer.body
    return answer.json()


@pytest.mark.parametrize("key", [None, "a"])
def test_series_has_the_values_that_a_stream_recorded(charted: Stack, key: str | None) -> None:
    """For panes in which no event arrived: the last frame of another one may lack the events of its last moment."""
    topic, chance, recorded, arrivals = f"series.{key}", random.Random(3), {}, []
    with charted.stream(f"/v1/topics/{topic}/stats?field=x") as stream:
        newest, first, rows = None, None, {}

        def record() -> dict:
            _, frame = stream.frame()
            if frame.get("from") is not None:
                rows.update({row[0]: dict(zip(frame["columns"], row, strict=True)) for row in frame["data"]})
                for gone in frame.get("gone", ()):
                    rows.pop(gone[0], None)
                recorded[instant(frame["to"])] = rows.get(key, NOTHING)
            return frame

        while first is None or newest < first + 3_000:
            offset = charted.post(topic, some_events(chance, newest)).json()["last_offset"]
            while record()["offset"] < offset:
                pass
            page = charted.get(f"/v1/topics/{topic}/events?last=1").json()
            newest = instant(page["events"][-1]["time"])
            first = first or newest
            arrivals.append(newest)
        while rows[None]["count"]:
            record()
    query = f"field=x&stat={','.join(STATISTICS)}&step={PANE}ms" + (f"&key={key}" if key else "")
    last = sorted(recorded)[-2]
    until(lambda: last in asked(charted, topic, query)["times"])
    series = asked(charted, topic, query)
    compared = 0
    for place, time in enumerate(series["times"]):
        row = recorded.get(time)
        if row is None or any(time - PANE <= arrival < time for arrival in arrivals):
            continue
        found = {name: values[place] for name, values in series["stats"].items()}
        assert found == {name: row[name] if row["count"] else None for name in STATISTICS}, time
        compared += 1
    assert compared > 20


def test_series_of_a_topic_that_was_deleted_begins_anew(charted: Stack) -> None:
    topic = "series.deleted"
    charted.post(topic, [{"x": n} for n in range(5)])
    until(lambda: 5 in asked(charted, topic, "step=1s")["stats"]["count"])
    assert charted.request("DELETE", f"/v1/topics/{topic}").status == 204
    assert asked(charted, topic, "step=1s")["times"] == []
    charted.post(topic, [{"x": 1}])
    until(lambda: asked(charted, topic, "step=1s")["stats"]["count"])
    assert set(asked(charted, topic, "step=1s")["stats"]["count"]) == {1}
