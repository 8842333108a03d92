"""Several topics and patterns on one connection, a cadence of one's own, and rankings."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.stack import Stack, Table
from support.waiting import until


class Tables:
    """The state of a client of a stream of several topics: a table per topic and window, and the events."""

    def __init__(self):
        self.tables, self.events, self.resets = {}, {}, []
        self.cursor = ""

    def take(self, message):
        self.cursor = message.id
        data = json.loads(message.data)
        if message.event == "reset":
            self.resets.append(data)
            self.tables = {place: table for place, table in self.tables.items() if place[0] != data["topic"]}
        elif "$topic" in data:
            self.events.setdefault(data["$topic"], []).append(data["$offset"])
        else:
            self.tables.setdefault((data["topic"], data["window"]), Table()).apply(message.event, data)

    def offset(self, topic, window="1m"):
        table = self.tables.get((topic, window))
        return table.offset if table else 0


def read_until(stream, tables, done):
    while not done():
        tables.take(stream.next())


def test_one_cursor_resumes_every_topic_and_pattern_of_a_stream(server, topic):
    names = [f"{topic}.{name}" for name in ("a", "b", "c.d")]
    for name in names:
        server.post(name, {"key": "k", "n": 1})
    until(lambda: all(server.stats(name)["offset"] == 1 for name in names))
    path = f"/v1/stream?events={topic}.>&stats={names[0]}&stats={names[2]}&window=1m&window=5m"
    known = Tables()
    with server.stream(path) as stream:
        read_until(stream, known, lambda: len(known.tables) == 4)
        assert set(known.tables) == {(name, window) for name in (names[0], names[2]) for window in ("1m", "5m")}
        for name in names:
            server.post(name, [{"key": "k", "n": 2}, {"key": "k", "n": 3}])
        wanted = {name: [2, 3] for name in names}
        read_until(stream, known, lambda: known.events == wanted and known.offset(names[2]) == 3)
        cursor = known.cursor
    assert 0 < len(cursor) <= 600
    for name in names:
        server.post(name, {"key": "new", "n": 4})
    wanted = {name: [2, 3, 4] for name in names}
    with server.stream(path, Last_Event_ID=cursor) as stream:
        read_until(stream, known, lambda: known.events == wanted and all(t.offset == 4 for t in known.tables.values()))
    assert not known.resets
    for (name, window), table in known.tables.items():
        state = server.stats(name, f"?window={window}")
        assert {(row[0], row[1]): row for row in state["data"]} == table.live()


def test_topics_created_under_a_pattern_are_streamed_from_their_first_event(server, topic):
    known = Tables()
    with server.stream(f"/v1/stream?events={topic}.*&stats={topic}.*") as stream:
        stream.read()
        names = [f"{topic}.n{number}" for number in range(20)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda name: [server.post(name, [{"n": 1}, {"n": 2}]) for _ in range(3)], names))
        server.post(f"{topic}.too.deep", {"n": 1})
        wanted = {name: [1, 2, 3, 4, 5, 6] for name in names}
        read_until(
            stream,
            known,
            lambda: sum(map(len, known.events.values())) == 120 and all(known.offset(name) == 6 for name in names),
        )
        cursor = known.cursor
    assert known.events == wanted
    server.post(f"{topic}.unheard", {"n": 1})
    with server.stream(f"/v1/stream?events={topic}.*", Last_Event_ID=cursor) as stream:
        known = Tables()
        read_until(stream, known, lambda: f"{topic}.unheard" in known.events)
    assert known.events == {f"{topic}.unheard": [1]}
    assert not known.resets


def test_pattern_is_listed_again_after_a_failed_listing(proxy, prefix, tmp_path):
    """The topic named beside the pattern was read in the meantime. Its partition still must be listed."""
    with Stack(proxy.url, prefix, tmp_path) as server:
        server.start_web()
        for name in ("named", "a.b"):
            server.post(name, {"n": 1})
        path = "/v1/stream?events=named&events=a.*&last_event_id=earliest"
        proxy.upward = lambda data: None if b"HGETALL" in data else data
        with server.stream(path) as stream:
            assert stream.rest().endswith(b"\n: Redis is not reachable\n")
        proxy.upward = lambda data: data
        until(lambda: server.ready())
        with server.stream(path) as stream:
            assert {stream.frame()[1]["$topic"] for _ in range(2)} == {"named", "a.b"}


def test_deleted_topic_resets_no_other_topic_of_its_stream(server, topic):
    kept, gone = f"{topic}.kept", f"{topic}.gone"
    for name in (kept, gone):
        server.post(name, {"n": 1})
    until(lambda: all(server.stats(name)["offset"] == 1 for name in (kept, gone)))
    known = Tables()
    with server.stream(f"/v1/stream?events={kept}&events={gone}&stats={topic}.*") as stream:
        read_until(stream, known, lambda: len(known.tables) == 2)
        server.request("DELETE", f"/v1/topics/{gone}")
        read_until(stream, known, lambda: known.resets)
        server.post(gone, {"n": 2})
        server.post(kept, {"n": 2})
        read_until(stream, known, lambda: known.events == {gone: [2], kept: [2]})
    assert known.resets == [{"topic": gone, "reason": "deleted"}]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("", "events=TOPIC"),
        ("events=a..b", "a..b"),
        ("events=a&window=1m", "belongs to statistics"),
        ("stats=a&names=off", "belongs to events"),
        ("stats=a&window=7m", "7m"),
        ("stats=a&every=10ms", "every"),
        ("stats=a&every=soon", "every"),
        ("events=a&top=3", "top"),
        ("events=a&format=json", "format"),
    ],
)
def test_invalid_query_is_a_problem_that_names_the_mistake(server, query, said):
    answer = server.get(f"/v1/stream?{query}", Accept="text/event-stream")
    assert answer.status == 400
    assert said in answer.json()["detail"]


def test_stream_of_too_many_topics_is_refused(stack):
    stack.configure("[limits]\ntopics = 3\n")
    stack.start_web()
    assert stack.get("/v1/stream?" + "&".join(f"events=t{n}" for n in range(4))).status == 400
    for number in range(3):
        stack.post(f"t.{number}", {"n": 1})
    with stack.stream("/v1/stream?events=t.*&last_event_id=earliest") as stream:
        assert {json.loads(stream.next().data)["$topic"] for _ in range(3)} == {"t.0", "t.1", "t.2"}
        stack.post("t.3", {"n": 1})
        assert b": more than 3 topics" in stream.rest()
    assert stack.get("/v1/stream?events=t.*").status == 400


def test_deleted_topics_do_not_count_against_the_limit_of_topics(stack):
    """Topics of a pattern are created and deleted. A stream of another pattern keeps the process subscribed to
    creations."""
    stack.configure("[limits]\ntopics = 3\n")
    stack.start_web()
    path = "/v1/stream?events=t.*&last_event_id=earliest"
    with stack.stream("/v1/stream?events=other.*"):
        with stack.stream(path) as stream:
            for number in range(3):
                stack.post(f"t.{number}", {"n": 1})
                stream.next()
                stack.request("DELETE", f"/v1/topics/t.{number}")
            stack.post("t.3", {"n": 1})
            stream.rest()
        with stack.stream(path) as again:
            assert again.status == 200
            assert json.loads(again.next().data)["$topic"] == "t.3"


def test_slower_cadence_gives_fewer_frames_and_the_same_final_state(server, topic):
    path = f"/v1/topics/{topic}/stats"
    server.post(topic, {"key": "k0", "n": 1})
    until(lambda: server.stats(topic)["offset"] == 1)
    slow, quick = Table(), Table()
    with server.stream(path + "?every=2s") as paced, server.stream(path) as other:
        slow.apply(*paced.frame())
        quick.apply(*other.frame())
        for number in range(30):
            offset = server.post(topic, {"key": f"k{number % 7}", "n": number}).json()["last_offset"]
            while quick.offset < offset:
                quick.apply(*other.frame())
        while slow.offset < offset:
            message = paced.next()
            slow.apply(message.event, json.loads(message.data))
        cursor = message.id
    assert slow.live() == quick.live()
    assert len(slow.frames) < len(quick.frames)
    assert set(slow.frames[1:]) == {"update"}
    server.post(topic, {"key": "k3", "n": 5})
    with server.stream(path + "?every=2s", Last_Event_ID=cursor) as resumed:
        while slow.offset < offset + 1:
            slow.apply(*resumed.frame())
    state = server.stats(topic)
    assert {(row[0], row[1]): row for row in state["data"]} == slow.live()


def test_ranking_has_ordered_rows_and_reports_removed_ones(server, topic):
    server.post(topic, [{"key": key} for key in "aaabbc"])
    until(lambda: server.stats(topic)["offset"] == 6)
    query = "?top=2&by=count&key=a&key=b&key=c"
    with server.stream(f"/v1/topics/{topic}/stats{query}") as stream:
        table = Table()
        event, frame = stream.frame()
        table.apply(event, frame)
        assert [row[0] for row in frame["data"]] == ["a", "b"]
        server.post(topic, [{"key": "c"}] * 3)
        until(lambda: server.stats(topic)["offset"] == 9)
        while (None, None) in table.rows or {key for key, _ in table.rows} != {"c", "a"}:
            event, frame = stream.frame()
            table.apply(event, frame)
        assert event == "update"
        assert [row[0] for row in frame["data"]] == ["c", "a"]
        assert frame["gone"] == [["b", None]]
    best = server.stats(topic, query)["data"]
    assert best == frame["data"]
