"""The window ``all`` through HTTP, and over restarts of every part."""

import os
import signal

from support.processes import children, needs_proc
from support.producers import BatchProducer
from support.stack import Table
from support.waiting import until

TOPIC = "sold"
SETTINGS = """
[topics.sold]
windows = ["10s", "all"]
values = ["city"]
statistics = ["p50", "distinct"]
retention = 1000
"""


def batch(number):
    return [{"id": f"{number}/{n}", "key": f"k{n % 3}", "n": number % 8, "city": "x"} for n in range(5)]


def rows_of(frame):
    return {(row[0], row[1]): row for row in frame["data"]}


def test_every_way_to_read_the_window(stack):
    stack.configure(SETTINGS)
    stack.start_aggregator()
    stack.start_web()
    events = [{"key": "a", "n": 1, "city": "x", "time": "2001-01-01T00:00:00Z"}, {"key": "b", "n": 4, "city": "y"}]
    last = stack.post(TOPIC, events).json()["last_offset"]
    frame = stack.stats(TOPIC, f"?window=all&at_least={last}")
    rows = rows_of(frame)
    columns = frame["columns"]
    assert columns == ["key", "field", "count", "rate", "sum", "mean", "min", "max", "std", "p50"]
    assert rows[None, "n"][2:8] == [2, None, 5.0, 2.5, 1.0, 4.0]
    assert frame["from"] == "2001-01-01T00:00:00.000Z"
    assert stack.stats(TOPIC)["window"] == "10s"
    every = stack.stats(TOPIC, "?window=*")
    assert "all" in str(every)
    text = stack.get(f"/v1/topics/{TOPIC}/stats?window=all&format=csv").body.decode()
    assert "a,n,1,,1" in text
    assert stack.get(f"/v1/topics/{TOPIC}").json()["windows"] == ["10s", "all"]
    for path in (f"/v1/topics/{TOPIC}/stats?window=all", f"/v1/stream?sub=stats/{TOPIC}%3Fwindow=all"):
        table = Table()
        with stack.stream(path) as stream:
            while table.offset < last:
                table.apply(*stream.frame())
            assert table.live() == rows
            last = stack.post(TOPIC, {"key": "a", "n": 2}).json()["last_offset"]
            while table.offset < last:
                table.apply(*stream.frame())
            rows = rows_of(stack.stats(TOPIC, f"?window=all&at_least={last}"))
            assert table.live() == rows
    top = stack.stats(TOPIC, "?window=all&top=1&by=sum")
    assert {row[0] for row in top["data"]} == {None, "a"}


def test_what_the_window_has_not_is_refused_by_name(stack):
    stack.configure(SETTINGS)
    stack.start_web()
    series = stack.get(f"/v1/topics/{TOPIC}/stats/series?window=all")
    assert (series.status, "'all' is not a window of time" in str(series.json())) == (400, True)
    ranked = stack.get(f"/v1/topics/{TOPIC}/stats?window=all&top=1&by=distinct")
    assert (ranked.status, "by" in str(ranked.json())) == (400, True)
    alert = b'{"topic": "sold", "when": "count(all) > 5"}'
    refused = stack.request("PUT", "/v1/alerts/many", alert, **{"Content-Type": "application/json"})
    assert (refused.status, "'all'" in str(refused.json())) == (400, True)


@needs_proc
def test_nothing_is_lost_or_counted_twice_when_aggregators_are_killed(stack):
    """The log keeps a fifth of the events. Aggregators are killed again and again while events are published."""
    stack.configure(SETTINGS)
    parent = stack.start("serve", "serve", "--port", str(stack.port), "--workers", "1")
    until(stack.ready)
    with BatchProducer(stack, [TOPIC], batch) as producer:
        killed = set()
        for _ in range(4):
            posts = producer.posts
            until(lambda posts=posts: producer.posts > posts + 250)
            [child] = until(lambda: set(children(parent.pid, "_aggregator")) - killed)
            os.kill(child, signal.SIGKILL)
            killed.add(child)
        producer.stop()
    last = 5 * producer.posts
    frame = until(lambda: (s := stack.stats(TOPIC, "?window=all"))["offset"] == last and s)
    rows = rows_of(frame)
    assert rows[None, "n"][2:5:2] == [last, sum(5 * (number % 8) for number in range(producer.posts))]
    assert [rows[f"k{n}", None][2] for n in range(3)] == [2 * producer.posts, 2 * producer.posts, producer.posts]
    assert "gap" not in frame
