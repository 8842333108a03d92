"""Statistics on demand: nothing is written for windows that nobody reads, and the first request gets everything."""

import signal

import pytest

from support.stack import client_of
from support.waiting import until


@pytest.fixture
def running(stack, topic):
    stack.start_aggregator()
    stack.start_web()
    for name in (topic, f"{topic}.other"):
        path = f"/v1/topics/{name}/stats"
        until(lambda path=path: "stale" not in stack.get(path, Accept="application/json").json())
    return stack


def publish(stack, topic, count):
    for number in range(count):
        stack.post(topic, {"key": "k", "n": number})


def statistics_keys(redis_url, topic):
    """Return the keys of a topic's statistics in Redis."""
    return client_of(redis_url).keys(f"*{topic}.$stats.*")


def total(frame):
    (count,) = [row[2] for row in frame["data"] if row[0] is None and row[1] is None]
    return count


def test_the_first_request_has_every_event_and_none_before_it_writes_anything(running, topic, redis_url):
    publish(running, topic, 20)
    until(lambda: running.get(f"/v1/topics/{topic}/events?limit=1", Accept="application/json").json()["events"])
    assert statistics_keys(redis_url, topic) == []
    answer = running.get(f"/v1/topics/{topic}/stats", Accept="application/json").json()
    assert (total(answer), answer["offset"]) == (20, 20)
    assert "stale" not in answer
    publish(running, topic, 5)
    answer = running.get(f"/v1/topics/{topic}/stats?at_least=25", Accept="application/json").json()
    assert (total(answer), answer["offset"]) == (25, 25)


def test_the_first_stream_begins_with_every_event(running, topic):
    publish(running, topic, 20)
    with running.stream(f"/v1/topics/{topic}/stats") as stream:
        kind, frame = stream.frame()
        assert (kind, total(frame), "stale" in frame) == ("snapshot", 20, False)
        publish(running, topic, 1)
        kind, frame = stream.frame()
        assert (kind, frame["offset"]) == ("update", 21)


def test_rates_and_csv_and_every_window_are_asked_for_too(running, topic):
    publish(running, topic, 3)
    rates = running.get(f"/v1/topics/{topic}").json()["rates"]
    assert all(rate > 0 for rate in rates.values()), rates
    other = f"{topic}.other"
    publish(running, other, 3)
    table = running.get(f"/v1/topics/{other}/stats?window=*", Accept="text/csv").body.decode()
    assert table.count("\n") > 3
    found = running.get(f"/v1/topics/{other}/stats?window=*", Accept="application/json").json()["windows"]
    assert [total(frame) for frame in found] == [3] * len(found)


def test_a_request_for_a_topic_that_does_not_exist_leaves_nothing_behind(running, topic, redis_url):
    answer = running.get(f"/v1/topics/{topic}/stats", Accept="application/json").json()
    assert (answer["exists"], answer["data"]) == (False, [])
    client = client_of(redis_url)
    assert not [name for key in client.keys("*:wanted") for name in client.hkeys(key) if topic.encode() in name]


def test_without_an_aggregator_the_last_frames_are_stale_and_without_frames_unavailable(stack, topic):
    stack.start_web()
    publish(stack, topic, 3)
    answer = stack.get(f"/v1/topics/{topic}/stats", Accept="application/json")
    assert answer.status == 503
    assert answer.json()["type"] == "urn:pushsvc:problem:statistics-unavailable"
    assert set(stack.get(f"/v1/topics/{topic}").json()["rates"].values()) == {None}
    stack.start_aggregator()
    until(lambda: stack.get(f"/v1/topics/{topic}/stats", Accept="application/json").status == 200)
    stack.stop("aggregator", signal.SIGKILL)
    until(lambda: "stale" in stack.get(f"/v1/topics/{topic}/stats", Accept="application/json").json())
    publish(stack, topic, 1)
    answer = stack.get(f"/v1/topics/{topic}/stats", Accept="application/json").json()
    assert (answer["stale"], answer["offset"]) == (True, 3)
    with stack.stream(f"/v1/topics/{topic}/stats") as stream:
        kind, frame = stream.frame()
        assert (kind, frame["offset"]) == ("snapshot", 3)
        stack.start_aggregator()
        until(lambda: stream.frame()[1]["offset"] == 4)


def test_a_stream_without_an_aggregator_begins_with_stale_rows(stack, topic, redis_url):
    stack.start_web()
    publish(stack, topic, 3)
    stack.start_aggregator()
    until(lambda: stack.get(f"/v1/topics/{topic}/stats", Accept="application/json").status == 200)
    stack.stop("aggregator")
    client = client_of(redis_url)
    client.delete(*client.keys("*:wanted"))
    with stack.stream(f"/v1/topics/{topic}/stats") as stream:
        kind, frame = stream.frame()
        assert (kind, frame["offset"], frame.get("stale")) == ("snapshot", 3, True)
        stack.start_aggregator()
        kind, frame = stream.frame()
        assert (kind, frame["offset"], "stale" in frame) == ("snapshot", 3, False)
