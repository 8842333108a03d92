"""The newest event of each key over HTTP: once and as a stream, against a fold of everything that was published."""

from __future__ import annotations

import csv
import io
import json
import os
from random import Random

import pytest

from support.latest import Board, fold
from support.stack import Stack
from support.waiting import until

SETTINGS = """
[topics."board.*"]
windows = []
latest = true
retention = 10

[topics."small.*"]
latest = true
latest_deletes = ["left"]
max_keys = 3
"""


@pytest.fixture(scope="module")
def boards(redis_url, tmp_path_factory):
    with Stack(redis_url, f"test-{os.getpid()}-boards:", tmp_path_factory.mktemp("boards")) as stack:
        stack.configure(SETTINGS)
        stack.start_aggregator()
        stack.start_web("--workers", "2")
        yield stack


@pytest.fixture
def own_boards(stack):
    stack.configure(SETTINGS)
    stack.start_aggregator()
    stack.start_web()
    return stack


class Published:
    """Publishes to a topic, and remembers what was published in its public form."""

    def __init__(self, stack, topic):
        self.stack = stack
        self.topic = topic
        self.events = []

    def publish(self, events):
        answer = self.stack.post(self.topic, events)
        assert answer.status == 202, answer
        first = answer.json()["first_offset"]
        page = self.stack.get(f"/v1/topics/{self.topic}/events?last={len(events)}", Accept="application/json").json()
        assert [event["$offset"] for event in page["events"]] == list(range(first, first + len(events)))
        self.events += page["events"]

    def fold(self, most=10_000, **options):
        return fold(self.events, most, **options)


def latest(stack, topic, query=""):
    answer = stack.get(f"/v1/topics/{topic}/latest{query}", Accept="application/json")
    assert answer.status == 200, answer
    return answer.json()


def some_events(chance, count, keys=8):
    found = []
    for _ in range(count):
        event = {"n": chance.randrange(1000), "text": "ü" * chance.randrange(4)}
        if (number := chance.randrange(-1, keys)) >= 0:
            event["key"] = f"k{number}"
        if chance.random() < 0.4:
            event["type"] = chance.choice(["moved", "delete", "deleted"])
        found.append(event)
    return found


def caught_up(stream, board, wanted):
    while list(board.events.values()) != wanted:
        board.apply(*stream.frame())


def test_the_newest_events_as_json_and_csv(boards, topic):
    published = Published(boards, f"board.{topic}")
    published.publish([{"key": "b", "n": 1}, {"key": "a", "n": 2}, {"n": 3}, {"key": "b", "n": 4, "x": "y"}])
    events, _ = published.fold()
    assert latest(boards, published.topic) == {"topic": published.topic, "events": events, "evicted": 0}
    assert [event["$offset"] for event in events] == [2, 4]
    assert json.loads(boards.get(f"/v1/topics/{published.topic}/latest.json").body)["events"] == events
    answer = boards.get(f"/v1/topics/{published.topic}/latest.csv")
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(answer.body.decode())))
    assert [(row["$offset"], row["key"], row["n"], row["x"]) for row in rows] == [
        ("2", "a", "2", ""),
        ("4", "b", "4", "y"),
    ]
    assert boards.get(f"/v1/topics/{published.topic}/latest?format=csv").body == answer.body


def test_keys_are_selected(boards, topic):
    published = Published(boards, f"board.{topic}")
    published.publish([{"key": key, "n": number} for number, key in enumerate("abcab")])
    assert [event["key"] for event in latest(boards, published.topic, "?key=c&key=a&key=none")["events"]] == ["c", "a"]
    assert latest(boards, published.topic, "?key=none")["events"] == []


def test_an_unchanged_answer_is_a_304(boards, topic):
    published = Published(boards, f"board.{topic}")
    published.publish([{"key": "a"}])
    path = f"/v1/topics/{published.topic}/latest"
    tag = boards.get(path).headers["ETag"]
    assert boards.get(path, If_None_Match=tag).status == 304
    published.publish([{"key": "a"}])
    assert boards.get(path, If_None_Match=tag).status == 200


def test_a_topic_that_does_not_exist_is_empty(boards, topic):
    assert latest(boards, f"board.{topic}") == {"topic": f"board.{topic}", "events": [], "evicted": 0}


def test_topics_of_jobs_keep_their_newest_events_and_have_no_windows(boards, topic):
    name = f"job.{topic}"
    Published(boards, name).publish([{"key": "progress", "done": 60, "total": 100}])
    assert latest(boards, name)["events"][0]["done"] == 60
    assert boards.get(f"/v1/topics/{name}").json()["windows"] == []


@pytest.mark.parametrize("media_type", ["application/json", "text/csv", "text/event-stream"])
def test_a_topic_without_the_setting_is_a_404_that_names_it(boards, topic, media_type):
    answer = boards.get(f"/v1/topics/{topic}/latest", Accept=media_type)
    assert (answer.status, answer.json()["type"]) == (404, "urn:pushsvc:problem:no-latest")
    assert "set latest = true" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("?since=1", "since"), ("?key=", "key"), ("?key=" + "x" * 201, "key"), ("?" + "&key=a" * 101, "key"),
        ("?format=ndjson", "format"), ("?last_event_id=x", "last_event_id"), ("?heartbeat=event", "heartbeat"),
        ("?formulas=keep", "formulas"), ("?format=sse&formulas=keep", "formulas"),
        ("?format=sse&heartbeat=x", "heartbeat"),
    ],
)  # fmt: skip
def test_a_bad_parameter_is_a_400_that_names_it(boards, topic, query, named):
    answer = boards.get(f"/v1/topics/board.{topic}/latest{query}")
    assert (answer.status, answer.json()["parameter"]) == (400, named)


def test_an_event_above_64_kb_is_refused_and_names_its_line(boards, topic):
    name, large = f"board.{topic}", {"key": "a", "text": "x" * 65_536}
    answer = boards.post(name, [{"key": "b"}, large])
    assert answer.status == 400
    assert answer.json()["errors"][0]["line"] == 2
    assert "at most 65536 bytes" in answer.json()["errors"][0]["detail"]
    assert latest(boards, name)["events"] == []
    answer = boards.post(name, [{"key": "b"}, large], query="?on_error=skip")
    assert (answer.status, answer.json()["accepted"], answer.json()["rejected"]) == (202, 1, 1)
    assert [event["key"] for event in latest(boards, name)["events"]] == ["b"]
    assert boards.post(name, {**large, "text": "x" * 65_000}).status == 202
    assert boards.post(topic, large).status == 202  # without the setting it is no large event


def test_a_stream_begins_with_all_events_and_sends_what_changes(boards, topic):
    published = Published(boards, f"board.{topic}")
    path = f"/v1/topics/{published.topic}/latest"
    with boards.stream(path) as early:
        assert early.frame() == ("snapshot", {"topic": published.topic, "events": [], "evicted": 0})
        published.publish([{"key": "a", "n": 1}, {"key": "b", "n": 2}, {"n": 3}])
        events = published.events[:2]
        assert early.frame() == ("update", {"topic": published.topic, "events": events, "gone": []})
        with boards.stream(path) as late:
            assert late.frame() == ("snapshot", {"topic": published.topic, "events": events, "evicted": 0})
            published.publish([{"key": "a", "type": "delete"}])
            for stream in (early, late):
                assert stream.frame() == ("update", {"topic": published.topic, "events": [], "gone": ["a"]})
            published.publish([{"n": 5}])  # it changes nothing
            published.publish([{"key": "c"}])
            assert late.frame()[1]["events"] == published.events[-1:]


def test_every_kind_of_server_streams_newest_events(server, topic):
    published = Published(server, f"job.{topic}")
    with server.stream(f"/v1/topics/{published.topic}/latest") as stream:
        assert stream.frame()[0] == "snapshot"
        published.publish([{"key": "a"}])
        assert stream.frame() == ("update", {"topic": published.topic, "events": published.events, "gone": []})


def test_a_remembered_request_is_no_permission_for_another_topic(boards, topic):
    for name, status in ((f"job.{topic}", 200), (topic, 404), (f"board.{topic}", 200), ("bad..name", 400)):
        with boards.stream(f"/v1/topics/{name}/latest?key=a") as stream:
            assert stream.status == status


def test_silent_streams_of_some_keys_move_their_cursor(stack, topic):
    stack.configure(SETTINGS)
    stack.start_web("--heartbeat", "1")
    published = Published(stack, f"board.{topic}")
    with stack.stream(f"/v1/topics/{published.topic}/latest?key=a") as stream:
        stream.frame()
        before = stream.decoder.last_id
        published.publish([{"key": "b"}])
        until(lambda: stream.next().event == "heartbeat" and stream.decoder.last_id != before)


def test_a_stream_of_some_keys_gets_these_alone(boards, topic):
    published = Published(boards, f"board.{topic}")
    published.publish([{"key": key} for key in "abc"])
    with boards.stream(f"/v1/topics/{published.topic}/latest?key=b&key=d") as stream:
        assert [event["key"] for event in stream.frame()[1]["events"]] == ["b"]
        published.publish([{"key": "a"}, {"key": "c", "type": "deleted"}])
        published.publish([{"key": "d", "n": 1}, {"key": "a"}])
        assert stream.frame()[1]["events"][0]["n"] == 1
        published.publish([{"key": "b", "type": "deleted"}, {"key": "a", "type": "deleted"}])
        assert stream.frame()[1]["gone"] == ["b"]


def test_beyond_max_keys_streams_and_answers_lose_the_oldest(boards, topic):
    published = Published(boards, f"small.{topic}")
    with boards.stream(f"/v1/topics/{published.topic}/latest") as stream:
        stream.frame()
        board = Board()
        for number, key in enumerate("abcadeaf"):
            published.publish([{"key": key, "n": number}])
            events, _ = published.fold(3)
            caught_up(stream, board, events)
        published.publish([{"key": "a", "type": "left"}, {"key": "f", "type": "delete"}])
        events, evicted = published.fold(3, deletes=("left",))
        caught_up(stream, board, events)
        assert latest(boards, published.topic) == {"topic": published.topic, "events": events, "evicted": evicted}
        assert evicted == 3


def test_a_client_that_resumes_gets_what_changed(boards, topic):
    published = Published(boards, f"board.{topic}")
    path = f"/v1/topics/{published.topic}/latest"
    published.publish([{"key": "a"}, {"key": "b"}, {"key": "c"}])
    with boards.stream(path) as keeper:  # its process knows the changes in between
        keeper.frame()
        with boards.stream(path) as stream:
            stream.frame()
            cursor = stream.decoder.last_id
        published.publish([{"key": "d", "n": 1}, {"key": "b", "type": "delete"}])
        keeper.frame()
        seen = set()
        for _ in range(20):  # either worker may take the connection
            board = Board()
            board.events = {event["key"]: event for event in published.events[:3]}
            with boards.stream(path, Last_Event_ID=cursor) as stream:
                name, data = stream.frame()
                board.apply(name, data)
            assert list(board.events.values()) == published.fold()[0]
            seen.add(name)
        assert "reset" not in seen


def test_a_cursor_of_another_selection_begins_with_a_snapshot(boards, topic):
    published = Published(boards, f"board.{topic}")
    path = f"/v1/topics/{published.topic}/latest"
    published.publish([{"key": "a"}, {"key": "b"}])
    with boards.stream(path + "?key=a") as stream:
        stream.frame()
        cursor = stream.decoder.last_id
    with boards.stream(path, Last_Event_ID=cursor) as stream:
        assert stream.frame() == ("snapshot", latest(boards, published.topic))
    with boards.stream(path, Last_Event_ID="unreadable") as stream:
        assert stream.frame() == ("reset", {"topic": published.topic, "reason": "trimmed"})
        assert stream.frame()[0] == "snapshot"


def test_the_deletion_of_a_topic_resets_its_streams(boards, topic):
    published = Published(boards, f"board.{topic}")
    path = f"/v1/topics/{published.topic}/latest"
    published.publish([{"key": "a"}])
    with boards.stream(path) as stream:
        stream.frame()
        cursor = stream.decoder.last_id
        assert boards.request("DELETE", f"/v1/topics/{published.topic}").status == 204
        assert stream.frame() == ("reset", {"topic": published.topic, "reason": "deleted"})
        assert stream.frame() == ("snapshot", {"topic": published.topic, "events": [], "evicted": 0})
        assert boards.post(published.topic, {"key": "b"}).status == 202
        assert [event["key"] for event in stream.frame()[1]["events"]] == ["b"]
        assert latest(boards, published.topic)["events"][0]["$offset"] == 2
    with boards.stream(path, Last_Event_ID=cursor) as stream:
        assert stream.frame() == ("reset", {"topic": published.topic, "reason": "deleted"})
        assert [event["key"] for event in stream.frame()[1]["events"]] == ["b"]


@pytest.mark.parametrize("seed", range(2))
def test_random_publishes_trims_restarts_and_resumes_lead_to_the_fold(own_boards, topic, seed):
    """A client disconnects at any time and comes back with its cursor; the process of its stream is killed; the log
    keeps ten events. Whatever happens, its state becomes the fold of all events."""
    chance = Random(seed)
    published, board, cursor = Published(own_boards, f"board.{topic}"), Board(), ""
    path = f"/v1/topics/{published.topic}/latest"
    for round_ in range(12):
        with own_boards.stream(path, **({"Last_Event_ID": cursor} if cursor else {})) as stream:
            for _ in range(chance.randrange(1, 6)):
                published.publish(some_events(chance, chance.randrange(1, 9)))
            if chance.random() < 0.7:
                caught_up(stream, board, published.fold()[0])
            cursor = stream.decoder.last_id
        if round_ in (4, 8):
            own_boards.restart_web()
        published.publish(some_events(chance, 3))
    with own_boards.stream(path, Last_Event_ID=cursor) as stream:
        caught_up(stream, board, published.fold()[0])
    assert latest(own_boards, published.topic)["events"] == published.fold()[0]


def test_without_room_streams_of_a_large_topic_end_with_a_time_to_come_back(stack, topic):
    stack.configure(SETTINGS + "\n[limits]\nmemory = 1_000_000\n")
    stack.start_web()
    small, large = Published(stack, f"board.small-{topic}"), Published(stack, f"board.large-{topic}")
    small.publish([{"key": "a"}])
    for number in range(20):
        large.publish([{"key": f"k{number}", "text": "x" * 60_000}])
    with stack.stream(f"/v1/topics/{small.topic}/latest") as stream:
        stream.frame()
        with stack.stream(f"/v1/topics/{large.topic}/latest") as refused:
            assert refused.status == 200
            assert b": The server holds too much for its clients\n" in refused.rest()
        answer = stack.get(f"/v1/topics/{large.topic}/latest")
        assert (answer.status, answer.json()["type"]) == (503, "urn:pushsvc:problem:memory-full")
        assert [event["key"] for event in latest(stack, large.topic, "?key=k7")["events"]] == ["k7"]
        with stack.stream(f"/v1/topics/board.growing-{topic}/latest") as growing:
            growing.frame()
            for number in range(20):
                assert stack.post(f"board.growing-{topic}", {"key": f"k{number}", "text": "x" * 60_000}).status == 202
            assert b": The server holds too much for its clients\n" in growing.rest()
        small.publish([{"key": "b"}])
        assert stream.frame()[1]["events"] == small.events[-1:]
    assert stack.metric("pushsvc_dispatch_errors_total") == 0
    assert "Traceback" not in stack.output("web")


def test_switching_latest_on_fills_it_from_the_log(stack, topic):
    stack.start_aggregator()
    stack.start_web()
    published = Published(stack, topic)
    published.publish([{"key": key, "n": number} for number, key in enumerate("abcab")])
    for name in ("web", "aggregator"):
        stack.stop(name)
    stack.configure(f"[topics.{topic}]\nlatest = true\n")
    stack.start_web()
    until(lambda: latest(stack, topic)["events"] == published.fold()[0])
    with stack.stream(f"/v1/topics/{topic}/latest") as stream:
        assert stream.frame()[1]["events"] == published.fold()[0]
