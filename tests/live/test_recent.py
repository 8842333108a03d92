"""Windows of the last events and exact windows through web and aggregator, and after a restart of the aggregator."""

import random
import time

from support.oracle import expected, instant, summarize
from support.stack import Table
from support.waiting import until

CONFIGURATION = """
[topics."last.*"]
windows = ["1m", "last 100"]
cadence_ms = 0

[topics."exact.*"]
windows = ["1m", "last 20"]
exact = true
max_events = 100
cadence_ms = 0
"""


def batch(random_):
    now = int(time.time() * 1000)
    return [
        {
            "key": random_.choice(["pizza", "soup", "beer", None]),
            "rating": random_.randrange(-400, 400) / 8,
            "time": now - random_.randrange(-2_000, 90_000),
        }
        for _ in range(random_.choice([1, 2, 30]))
    ]


def last(events, frame, count):
    """Return the statistics of the last ``count`` events up to the frame's offset; assert the frame's interval."""
    chosen = [event for event in events if event["$offset"] <= frame["offset"]][-count:]
    times = [instant(event["time"]) for event in chosen]
    assert (instant(frame["from"]), instant(frame["to"])) == (min(times), max(times) + 1)
    return expected(chosen, frame)


def follow(server, topic, window, is_enough=bool):
    """Return the frames that a stream emitted during publishing, and the published events.

    It publishes on until the frames are enough, as a busy machine may emit one frame for many posts.
    """
    random_, frames = random.Random(5), []
    total = server.post(topic, batch(random_)).json()["last_offset"]
    until(lambda: server.stats(topic, f"?window={window}")["exists"])
    with server.stream(f"/v1/topics/{topic}/stats?window={window}") as stream:
        frames.append(stream.frame())
        for posts in [25, *[1] * 500]:
            for _ in range(posts):
                total = server.post(topic, batch(random_)).json()["last_offset"]
            while frames[-1][1]["offset"] < total:
                frames.append(stream.frame())
            if is_enough(frames):
                break
    events = server.get(f"/v1/topics/{topic}/events?limit=10000").json()["events"]
    assert len(events) == total
    return frames, events


def edges(frames):
    """Return where the frames end within a pane, in milliseconds."""
    return {instant(frame["to"]) % 250 for _, frame in frames}


def begin(stack):
    stack.configure(CONFIGURATION)
    stack.start_aggregator()
    stack.start_web()
    return stack


def snapshots(broker, topic, window):
    from pushsvc.broker.keys import Log

    return int(broker.metadata([Log(topic, window)])[0]["snapshot"])


def restart_aggregator(stack, broker, topic, window):
    """Restart the aggregator, which rebuilds the windows from the log; return after its snapshot."""
    before = snapshots(broker, topic, window)
    stack.stop("aggregator")
    stack.start_aggregator()
    until(lambda: snapshots(broker, topic, window) > before)


def test_frames_of_the_last_100_events_are_exact_before_and_after_a_restart(stack, broker):
    server, topic = begin(stack), "last.orders"
    frames, events = follow(server, topic, "last%20100")
    table = Table()
    for event, frame in frames:
        assert frame["window"] == "last 100"
        table.apply(event, frame)
        assert summarize(table.rows) == last(events, frame, 100)
        assert {row[3] for row in frame["data"]} <= {None}
    before = server.stats(topic, "?window=last100")
    assert {(row[0], row[1]): row for row in before["data"]} == table.live()
    restart_aggregator(stack, broker, topic, "last 100")
    after = server.stats(topic, "?window=last+100")
    assert (after["from"], after["to"], after["offset"]) == (before["from"], before["to"], before["offset"])
    assert sorted(after["data"], key=str) == sorted(before["data"], key=str)
    assert server.get(f"/v1/topics/{topic}").json()["rates"].keys() == {"1m", "last 100"}


def test_frames_of_an_exact_window_are_exact_before_and_after_a_restart(stack, broker):
    server, topic = begin(stack), "exact.orders"
    frames, events = follow(server, topic, "1m", lambda frames: len(edges(frames)) > 3)
    table = Table()
    for event, frame in frames:
        table.apply(event, frame)
        assert summarize(table.rows) == expected(events, frame)
        length = instant(frame["to"]) - instant(frame["from"])
        assert length < 60_000 if frame.get("truncated") else length == 60_000
    assert len(edges(frames)) > 3, "every edge is one of panes"
    restart_aggregator(stack, broker, topic, "1m")
    frame = server.stats(topic, "?window=1m")
    assert summarize({(row[0], row[1]): row for row in frame["data"]}) == expected(events, frame)
    frame = server.stats(topic, "?window=last%2020")
    assert summarize({(row[0], row[1]): row for row in frame["data"]}) == last(events, frame, 20)


def test_deleted_topic_starts_from_empty_statistics(stack):
    server, topic = begin(stack), "last.orders"
    server.post(topic, [{"x": 1}, {"x": 2}])
    until(lambda: server.stats(topic, "?window=last100")["offset"] == 2)
    server.request("DELETE", f"/v1/topics/{topic}")
    server.post(topic, {"x": 4})
    frame = until(lambda: (s := server.stats(topic, "?window=last100"))["offset"] == 3 and s)
    assert {row[1]: row[2] for row in frame["data"]} == {None: 1, "x": 1}
    assert server.get(f"/v1/topics/{topic}/stats?window=last99").status == 400
