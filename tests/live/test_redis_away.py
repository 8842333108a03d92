"""Redis stops and starts again, and kills its connections."""

import pytest

from support.stack import Stack, Table
from support.waiting import until

EVENTS = "/v1/topics/feedback/events"
STATS = "/v1/topics/feedback/stats"


@pytest.fixture
def redis(start_redis):
    return start_redis()


@pytest.fixture
def server(redis, tmp_path):
    with Stack(redis.url, "pushsvc:", tmp_path) as stack:
        stack.start_aggregator()
        stack.start_web()
        yield stack


def test_streams_survive_a_redis_restart_with_a_reset(server, redis):
    assert server.post("feedback", [{"key": "pizza", "rating": 4}, {"rating": 2}]).status == 202
    until(lambda: server.stats("feedback")["offset"] == 2)
    table = Table()
    with server.stream(STATS) as stats, server.stream(EVENTS + "?last_event_id=earliest") as events:
        table.apply(*stats.frame())
        assert [events.frame()[1]["$offset"] for _ in range(2)] == [1, 2]

        redis.stop()
        until(lambda: server.get("/readyz").status == 503)
        refused = server.post("feedback", {"rating": 1})
        assert refused.status == 503
        assert int(refused.headers["Retry-After"]) > 0
        assert refused.headers["Content-Type"] == "application/problem+json"
        with server.stream(STATS) as meanwhile:
            assert meanwhile.status == 200
            text = meanwhile.rest()
            assert text.count(b"retry: ") == 2
            assert b": Redis is not reachable" in text

        redis.start()
        until(lambda: server.get("/readyz").status == 200)
        assert events.until(lambda event, _: event == "reset")["reason"] == "broker-restarted"
        assert [events.frame()[1]["$offset"] for _ in range(2)] == [1, 2]
        reset = stats.until(lambda event, _: event == "reset")
        table.apply("reset", reset)
        assert reset["reason"] == "broker-restarted"

        posted = until(lambda: (a := server.post("feedback", {"key": "soup", "rating": 5})).status == 202 and a)
        assert posted.json()["first_offset"] == 3
        assert events.until(lambda event, _: event == "message")["$offset"] == 3
        while table.offset < 3:
            table.apply(*stats.frame())
    assert table.rows[None, "rating"][2:5:2] == [3, 11]
    assert {(row[0], row[1]): row for row in server.stats("feedback")["data"]} == table.live()


def test_cursor_from_before_a_redis_restart_is_a_reset(server, redis):
    server.post("feedback", {"rating": 1})
    with server.stream(EVENTS + "?last_event_id=earliest") as stream:
        stream.frame()
        cursor = stream.decoder.last_id
    redis.stop()
    redis.start()
    until(lambda: server.get("/readyz").status == 200)
    with server.stream(EVENTS, Last_Event_ID=cursor) as stream:
        assert stream.frame() == ("reset", {"topic": "feedback", "reason": "broker-restarted"})
        assert stream.frame()[1]["$offset"] == 1


def test_aggregator_that_replaces_a_killed_one_misses_nothing(server):
    import signal

    for number in range(10):
        server.post("feedback", {"key": f"k{number % 3}", "rating": number})
    before = until(lambda: (s := server.stats("feedback"))["offset"] == 10 and s)
    with server.stream(STATS) as stream:
        table = Table()
        table.apply(*stream.frame())
        server.stop("aggregator", signal.SIGKILL)
        assert server.post("feedback", {"key": "k0", "rating": 1}).status == 202
        until(lambda: server.stats("feedback").get("stale"))
        server.start_aggregator()
        while table.offset < 11:
            table.apply(*stream.frame())
    assert (
        table.rows["k0", "rating"][2] == before["data"][[r[:2] for r in before["data"]].index(["k0", "rating"])][2] + 1
    )
    assert table.frames.count("reset") == 0
    assert table.frames.count("snapshot") <= 2


def test_events_published_while_redis_kills_connections_are_all_counted(server, redis):
    """Redis kills every connection again and again during publishing. In the end every stored event is counted."""
    import redis as client

    admin = client.Redis.from_url(redis.url)
    acknowledged = 0
    for number in range(60):
        if number % 3 == 0:
            admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        if number % 10 == 5:
            admin.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        for topic in ("one", "two"):
            answer = server.post(topic, {"id": f"{topic}-{number}", "key": f"k{number % 5}", "n": 1})
            acknowledged += answer.status == 202
    last = {topic: server.get(f"/v1/topics/{topic}").json()["last_offset"] for topic in ("one", "two")}
    assert sum(last.values()) >= acknowledged > 0
    for topic, offset in last.items():
        state = until(lambda: (s := server.stats(topic))["offset"] == last[topic] and s)  # noqa: B023
        assert {(row[0], row[1]): row for row in state["data"]}[None, "n"][2] == offset
