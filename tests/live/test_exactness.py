"""Every frame of a live stream against an independent computation from the log."""

import itertools
import json
import random
import time

import pytest

from support.oracle import expected, summarize
from support.stack import Table
from support.waiting import until


def batch(random_):
    """Return 1 to 30 events with and without key and price, some late or ahead of time."""
    now = int(time.time() * 1000)
    return [
        {
            "key": random_.choice(["pizza", "soup", "beer", None]),
            "rating": random_.randrange(-400, 400) / 8,
            **({"price": random_.randrange(8_000) / 8} if random_.random() < 0.5 else {}),
            **({"time": now - random_.randrange(-4_000, 1_200_000)} if random_.random() < 0.7 else {}),
        }
        for _ in range(random_.choice([1, 2, 30]))
    ]


@pytest.mark.parametrize("window", ["1m", "5m", "15m"])
def test_counts_sums_and_extremes_are_bit_equal_in_every_frame(shared_server, topic, window):
    """Values are dyadic, so sums are exact. Events are up to 20 minutes late and up to 4 seconds ahead."""
    random_ = random.Random(7)
    server = shared_server
    server.post(topic, {"rating": 0.125})
    total, posts, table, frames = 1, 0, Table(), []
    until(lambda: server.stats(topic, f"?window={window}")["exists"])
    with server.stream(f"/v1/topics/{topic}/stats?window={window}") as stream:
        frames.append(stream.frame())
        while posts < 40 or len(frames) < 4:
            posts += 1
            total = server.post(topic, batch(random_)).json()["last_offset"]
            while posts >= 40 and frames[-1][1]["offset"] < total:
                frames.append(stream.frame())
    events = server.get(f"/v1/topics/{topic}/events?limit=10000").json()["events"]
    assert len(events) == total
    for event, frame in frames:
        table.apply(event, frame)
        assert summarize(table.rows) == expected(events, frame), f"offset {frame['offset']}"


def test_mean_and_deviation_equal_numpy(shared_server, topic):
    values = [random.Random(n).gauss(1e9, 3) for n in range(200)]
    offset = shared_server.post(topic, [{"key": "a", "x": value} for value in values]).json()["last_offset"]
    frame = shared_server.stats(topic, f"?at_least={offset}&field=x&key=a")
    row = dict(zip(frame["columns"], frame["data"][0], strict=True))
    np = pytest.importorskip("numpy")
    assert row["mean"] == pytest.approx(np.mean(values), rel=1e-14)
    assert row["std"] == pytest.approx(np.std(values, ddof=1), rel=1e-9)
    assert row["rate"] == 200 / 60


def test_statistics_of_a_quiet_topic_decay_to_zero(stack, tmp_path):
    """The rows of a ten-second window go to zero and are removed without any event. The totals stay, at zero."""
    stack.configure('[topics."quiet"]\nwindows = ["10s"]\n')
    stack.start_aggregator()
    stack.start_web()
    stack.post("quiet", [{"key": "a", "x": 1}, {"key": "b", "x": 2}])
    until(lambda: stack.stats("quiet")["offset"] == 2)
    table, seen = Table(), []
    with stack.stream("/v1/topics/quiet/stats") as stream:
        table.apply(*stream.frame())
        assert set(table.rows) == set(itertools.product([None, "a", "b"], [None, "x"]))
        while set(table.rows) != {(None, None), (None, "x")}:
            event, frame = stream.frame()
            seen.append(json.dumps(frame["data"]))
            table.apply(event, frame)
    assert any('["a", "x", 0, 0.0, 0.0, null' in text for text in seen)
    assert table.rows[None, None][2] == 0
