"""A client comes back with the cursor of another selection: it gets no reset and loses nothing that it had selected."""

import json
from itertools import count

import pytest

from pushsvc.cursor import decode, encode
from pushsvc.topic import partition_of
from support.waiting import until


@pytest.fixture
def topics(topic):
    """Two topics of different partitions."""
    other = next(name for n in count() if partition_of(name := f"{topic}.{n}") != partition_of(topic))
    return topic, other


def stats(topic, query=""):
    return f"/v1/topics/{topic}/stats{query}"


def cursor_of(server, path, **headers):
    with server.stream(path, **headers) as stream:
        return until(lambda: stream.next().id)


@pytest.mark.parametrize(("before", "after", "rows"), [
    ("?key=a", "?key=b", {"b"}), ("?key=a", "", {None, "a", "b"}), ("", "?key=a", {"a"}),
    ("?window=1m", "?window=5m&key=b", {"b"}), ("?key=b", "?top=1", {None}),
])  # fmt: skip
def test_statistics_of_another_selection_begin_with_a_snapshot(server, topic, before, after, rows):
    server.post(topic, [{"key": "a", "n": 1}, {"key": "b", "n": 2}])
    server.stats(topic, "?window=*&at_least=2")
    cursor = cursor_of(server, stats(topic, before))
    server.post(topic, {"key": "c", "n": 1})
    with server.stream(stats(topic, after), Last_Event_ID=cursor) as stream:
        event, frame = stream.frame()
        assert event == "snapshot"
        assert rows <= {row[0] for row in frame["data"]}


@pytest.mark.parametrize("version", [1, 2])
def test_cursor_of_the_same_selection_or_of_an_earlier_version_continues_with_an_update(server, topic, version):
    server.post(topic, [{"key": "a", "n": 1}, {"key": "b", "n": 2}])
    server.stats(topic, "?window=*&at_least=2")
    cursor = cursor_of(server, stats(topic, "?key=a"))
    cursor = encode(decode(cursor)) if version == 1 else cursor
    with server.stream(stats(topic, "?key=a"), Last_Event_ID=cursor) as stream:
        server.post(topic, {"key": "a", "n": 3})
        event, frame = stream.frame()
        assert (event, {row[0] for row in frame["data"]}) == ("update", {"a"})


def test_topic_that_is_new_to_the_selection_starts_as_for_a_new_subscriber(server, topics):
    known, new = topics
    for n in range(3):
        server.post(new, {"n": n})
    with server.stream(f"/v1/stream?events={known}") as stream:
        stream.read()
        server.post(known, {"n": 0})
        cursor = stream.next().id
    server.post(known, {"n": 1})
    both = f"/v1/stream?events={known}&events={new}"
    with server.stream(both, Last_Event_ID=cursor) as stream:
        first = stream.next()
        server.post(new, {"n": 3})
        messages = [first, stream.next()]
        found = [(data["$topic"], data["n"]) for data in map(json.loads, (message.data for message in messages))]
        assert found == [(known, 1), (new, 3)]
    server.post(new, {"n": 4})
    with server.stream(both, Last_Event_ID=first.id) as again:  # it has a position in the new topic, too
        assert [again.frame()[1]["n"] for _ in range(2)] == [3, 4]


def test_statistics_beside_events_begin_with_a_snapshot(server, topics):
    known, new = topics
    server.post(known, [{"key": "a", "n": 1}, {"key": "b", "n": 2}])
    server.stats(known, "?window=*&at_least=2")
    with server.stream(f"/v1/stream?events={known}&stats={known}&key=a") as stream:
        stream.until(lambda event, _: event == "snapshot")
        server.post(known, {"key": "a", "n": 3})
        cursor = until(lambda: (m := stream.next()).event == "message" and m.id)
    with server.stream(f"/v1/stream?events={known}&stats={known}&stats={new}&key=b", Last_Event_ID=cursor) as stream:
        frames = [stream.frame() for _ in range(2)]
        assert [event for event, _ in frames] == ["snapshot"] * 2
        assert {row[0] for _, frame in frames for row in frame["data"]} == {"b"}
        server.post(known, {"key": "c", "n": 9})
        assert stream.until(lambda event, data: event == "message")["n"] == 9


def test_pattern_that_is_new_to_the_selection_starts_as_for_a_new_subscriber(server, topics):
    """The pattern that the client had is resumed, the other one is not read from the start of its topics."""
    known, new = topics
    server.post(f"{known}.a", {"n": 0})
    server.post(f"new-{new}.b", [{"n": n} for n in range(3)])
    with server.stream(f"/v1/stream?events={known}.*") as stream:
        stream.read()
        server.post(f"{known}.a", {"n": 1})
        cursor = stream.next().id
    server.post(f"{known}.a", {"n": 2})
    with server.stream(f"/v1/stream?events={known}.*&events=new-{new}.*", Last_Event_ID=cursor) as stream:
        found = [stream.frame()[1]]
        server.post(f"new-{new}.b", {"n": 3})
        found.append(stream.frame()[1])
        assert [(data["$topic"], data["n"]) for data in found] == [(f"{known}.a", 2), (f"new-{new}.b", 3)]
