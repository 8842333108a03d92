"""Events lost in transit are read again; events lost for good are reported by a reset. There is never a silent gap."""

import json
import os
import re
import signal

import pytest
import redis

from pushsvc.broker.keys import Keys
from pushsvc.cursor import MAX_LENGTH
from pushsvc.event import Event
from pushsvc.settings import TopicSettings
from pushsvc.topic import PARTITIONS, partition_of
from support.oracle import expected, summarize
from support.stack import Stack, Table, client_of
from support.waiting import until

EVENTS = "/v1/topics/feedback/events"
STATS = "/v1/topics/feedback/stats"
LONG = "?window=15m"
"""Long enough that no event leaves the window during a test."""
RECEIPT = re.compile(rb"\$\d+\r\n\d+ \d+ \d+ \d+ ")
"""The beginning of Redis's reply to a publish."""


def batch(*numbers):
    return [{"id": f"e{number}", "key": f"k{number % 3}", "rating": number / 8} for number in numbers]


def rows(frame):
    return {(row[0], row[1]): row for row in frame["data"]}


def follow(stream, table, done):
    while not done():
        table.apply(*stream.frame())


def offsets(stream, last):
    """Return the offsets of the next events, up to ``last``."""
    found = []
    while not found or found[-1] != last:
        found.append(stream.frame()[1]["$offset"])
    return found


def assert_exact(server, table, last):
    """Assert that the server's statistics and the subscriber's table are exact for the log up to ``last``."""
    frame = until(lambda: (s := server.stats("feedback", LONG))["offset"] == last and s)
    log = server.get(f"{EVENTS}?limit=10000", Accept="application/json").json()["events"]
    assert [event["$offset"] for event in log] == list(range(1, last + 1))
    assert summarize(rows(frame)) == expected(log, frame)
    assert summarize(table.rows) == summarize(rows(frame))


def publish(server, number, key):
    """Publish an event with an id, or one without an id in a request with an idempotency key."""
    if key is None:
        return server.post("feedback", batch(number))
    body = json.dumps({"key": "k", "rating": number}).encode()
    return server.request("POST", EVENTS, body, Idempotency_Key=key)


def test_publish_whose_reply_was_lost_is_stored_once(proxy, prefix, tmp_path):
    """The script ran and then the connection broke. The repeated request, by its ids or by its key, counts nothing
    again."""
    with Stack(proxy.url, prefix, tmp_path) as server:
        server.start_aggregator()
        server.start_web()
        server.post("feedback", batch(0))
        until(lambda: server.stats("feedback", LONG)["offset"] == 1)
        table = Table()
        with server.stream(EVENTS + "?last_event_id=earliest") as events, server.stream(STATS + LONG) as stats:
            table.apply(*stats.frame())
            for number, key in ((1, None), (2, "a key")):
                proxy.downward = lambda data: None if RECEIPT.match(data) else data
                assert publish(server, number, key).json()["type"] == "urn:pushsvc:problem:outcome-unknown"
                proxy.downward = lambda data: data
                again = until(lambda: (a := publish(server, number, key)).status == 202 and a).json()  # noqa: B023
                assert (again["first_offset"], again["last_offset"]) == (number + 1, number + 1)
                assert (again["accepted"], again["duplicates"]) == ((1, 0) if key else (0, 1))
            server.post("feedback", batch(3))
            assert offsets(events, 4) == [1, 2, 3, 4]
            follow(stats, table, lambda: table.offset == 4)
            assert_exact(server, table, 4)


@pytest.fixture
def forgetful(start_redis):
    """A Redis that loses everything since its last SAVE when it is killed."""
    return start_redis(appendonly="no")


@pytest.fixture
def over_forgetful(forgetful, tmp_path):
    with Stack(forgetful.url, "pushsvc:", tmp_path) as stack:
        stack.start_aggregator()
        stack.start_web()
        yield stack


def test_redis_that_lost_acknowledged_events_begins_another_epoch(forgetful, over_forgetful):
    """Redis is killed after its last dump. Offsets are used again, and every subscriber gets a reset first."""
    server, table = over_forgetful, Table()
    server.post("feedback", batch(*range(5)))
    until(lambda: server.stats("feedback", LONG)["offset"] == 5)
    with redis.Redis.from_url(forgetful.url) as admin:
        admin.save()
    assert server.post("feedback", batch(*range(5, 10))).status == 202
    until(lambda: server.stats("feedback", LONG)["offset"] == 10)
    with server.stream(STATS + LONG) as stats, server.stream(EVENTS + "?last_event_id=earliest") as events:
        table.apply(*stats.frame())
        assert offsets(events, 10) == list(range(1, 11))
        cursor = events.decoder.last_id

        os.kill(forgetful.pid, signal.SIGKILL)
        until(lambda: not forgetful.alive())
        forgetful.start()

        assert events.until(lambda event, _: event == "reset")["reason"] == "broker-restarted"
        assert offsets(events, 5) == [1, 2, 3, 4, 5]
        table.apply("reset", stats.until(lambda event, _: event == "reset"))
        follow(stats, table, lambda: table.offset == 5)
        assert_exact(server, table, 5)

        known, lost = until(lambda: (a := server.post("feedback", batch(3, 7))).status == 202 and a).json(), 6
        assert (known["duplicates"], known["accepted"], known["last_offset"]) == (1, 1, lost)
        assert offsets(events, lost) == [lost]
        follow(stats, table, lambda: table.offset == lost)
        assert_exact(server, table, lost)
    with server.stream(EVENTS, Last_Event_ID=cursor) as late:
        assert late.frame() == ("reset", {"topic": "feedback", "reason": "broker-restarted"})
        assert offsets(late, lost) == [1, 2, 3, 4, 5, 6]


def test_flushed_redis_begins_another_epoch(forgetful, over_forgetful):
    """Redis keeps its run id, and offsets restart at 1."""
    server, table = over_forgetful, Table()
    server.post("feedback", batch(*range(5)))
    until(lambda: server.stats("feedback", LONG)["offset"] == 5)
    with server.stream(STATS + LONG) as stats, server.stream(EVENTS + "?last_event_id=earliest") as events:
        table.apply(*stats.frame())
        assert offsets(events, 5) == [1, 2, 3, 4, 5]
        cursor = events.decoder.last_id
        with redis.Redis.from_url(forgetful.url) as admin:
            admin.flushall()
        assert events.until(lambda event, _: event == "reset")["reason"] == "broker-restarted"
        table.apply("reset", stats.until(lambda event, _: event == "reset"))
        assert not server.stats("feedback")["exists"]
        assert server.post("feedback", batch(7, 8)).json()["accepted"] == 2
        assert offsets(events, 2) == [1, 2]
        follow(stats, table, lambda: table.offset == 2)
        assert_exact(server, table, 2)
    with server.stream(EVENTS, Last_Event_ID=cursor) as late:
        assert late.frame() == ("reset", {"topic": "feedback", "reason": "broker-restarted"})
        assert offsets(late, 2) == [1, 2]


def test_cursor_older_than_the_log_resets_to_the_retained_events(stack):
    stack.configure('[topics."feedback"]\nwindows = ["last 5"]\nretention = 10\n')
    stack.start_aggregator()
    stack.start_web()
    stack.post("feedback", batch(0))
    until(lambda: stack.stats("feedback")["offset"] == 1)
    with stack.stream(EVENTS + "?last_event_id=earliest") as events, stack.stream(STATS) as stats:
        events.frame()
        stats.frame()
        cursors = events.decoder.last_id, stats.decoder.last_id
    stack.post("feedback", batch(*range(1, 20)))
    # Events beyond the retention are trimmed once no window by wall time can need them.
    about = "/v1/topics/feedback"
    until(lambda: stack.post("feedback", {"rating": 1}).status == 202 and stack.get(about).json()["first_offset"] > 2)
    first, last = (stack.get(about).json()[name] for name in ("first_offset", "last_offset"))
    until(lambda: stack.stats("feedback")["offset"] == last)
    with stack.stream(EVENTS, Last_Event_ID=cursors[0]) as events:
        assert events.frame() == ("reset", {"topic": "feedback", "reason": "trimmed"})
        assert offsets(events, last) == list(range(max(first, last - 999), last + 1))
    table = Table()
    with stack.stream(STATS, Last_Event_ID=cursors[1]) as stats:
        follow(stats, table, lambda: table.offset == last)
    assert table.live() == rows(stack.stats("feedback"))


def test_cursor_over_all_partitions_stays_short_and_resumes_each(stack, prefix, redis_url):
    """200 topics by name and by pattern, in partitions whose sequences are in the billions."""
    topics = [f"many.{name}.n{number}" for number in range(100) for name in ("a", "b")]
    assert {partition_of(topic) for topic in topics} == set(range(PARTITIONS))
    stack.start_aggregator()
    stack.start_web()
    with client_of(redis_url) as admin:
        for partition in range(PARTITIONS):
            admin.hincrby(Keys(prefix).partition(partition), "sequence", 2**34)
    named = "&".join(f"events={topic}" for topic in topics[::2])
    path = f"/v1/stream?{named}&events=many.b.*&stats=many.a.*&stats={topics[1]}"

    def publish_to_all(number):
        for topic in topics:
            assert stack.post(topic, {"n": number}).json()["last_offset"] == number

    def read(stream):
        """Return all events and, by topic, the last offset of the statistics that must come, too."""
        seen, counted = [], dict.fromkeys((*topics[::2], topics[1]), 0)
        last = number
        while len(seen) < len(topics) or set(counted.values()) != {last}:
            event, data = stream.frame()
            assert event != "reset"
            if "$topic" in data:
                seen.append((data["$topic"], data["$offset"]))
            else:
                counted[data["topic"]] = data["offset"]
        assert sorted(seen) == sorted((topic, last) for topic in topics)
        return stream.decoder.last_id

    number = 1
    publish_to_all(number)
    with stack.stream(path + "&last_event_id=earliest") as stream:
        cursor = read(stream)
    for number in (2, 3):
        assert 64 * 6 < len(cursor) <= MAX_LENGTH
        publish_to_all(number)
        with stack.stream(path, Last_Event_ID=cursor) as stream:
            cursor = read(stream)


def test_silent_live_connection_is_detected_while_nothing_is_published(proxy, prefix, tmp_path):
    """Redis answers commands, but its messages do not arrive. /readyz fails until they do."""
    with Stack(proxy.url, prefix, tmp_path) as server:
        server.start_web()
        server.post("feedback", {"n": 1})
        with server.stream(EVENTS + "?last_event_id=earliest") as stream:
            assert stream.frame()[1]["n"] == 1
            proxy.mute_subscribers = True
            answer = until(lambda: (a := server.get("/readyz")).status == 503 and a)
            assert (answer.json()["redis"], answer.json()["live"]) == ("ok", "not connected")
            server.post("feedback", {"n": 2})
            assert server.get("/readyz").status == 503, "a new connection that receives nothing is not up"
            proxy.mute_subscribers = False
            until(server.ready)
            server.post("feedback", {"n": 3})
            assert [stream.frame()[1]["n"] for _ in range(2)] == [2, 3]


def test_topic_with_a_lost_creation_notice_precedes_later_events_of_its_partition(proxy, broker, tmp_path):
    """Otherwise a subscriber of its pattern would have a position beyond its events."""
    known = "near.a"
    born = next(name for n in range(10_000) if partition_of(name := f"near.{n}") == partition_of(known))
    with Stack(proxy.url, broker.keys.prefix, tmp_path) as server:
        server.start_web()
        broker.publish(known, [Event(data={"n": 1})], TopicSettings())
        with server.stream("/v1/stream?events=near.*&last_event_id=earliest") as stream:
            assert stream.frame()[1]["n"] == 1
            topics = broker.keys.topics(partition_of(known)).encode()
            proxy.downward = lambda data: b"" if topics in data else data
            broker.publish(born, [Event(data={"n": 2})], TopicSettings())
            broker.publish(known, [Event(data={"n": 3})], TopicSettings())
            assert [stream.frame()[1]["n"] for _ in range(2)] == [2, 3]
