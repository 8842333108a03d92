"""Streams of a running server: first bytes, snapshots and updates, resuming, resets."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count

import pytest

from pushsvc.hub.delivery.sender import choose_sender
from pushsvc.hub.delivery.uring import UringSender
from pushsvc.topic import partition_of
from support.stack import Table, client_of
from support.waiting import until


@pytest.fixture
def events(topic):
    return f"/v1/topics/{topic}/events"


@pytest.fixture
def stats(topic):
    return f"/v1/topics/{topic}/stats"


def follow(stream, table, offset):
    """Apply frames until the table is exact for an offset."""
    while table.offset < offset:
        table.apply(*stream.frame())


def test_first_bytes_arrive_at_once_with_headers_against_buffering(server, events):
    with server.stream(events) as stream:
        assert stream.read().startswith(b"retry: 2000\n: ")
        assert stream.status == 200
        headers = stream.response.headers
        assert headers["Content-Type"].startswith("text/event-stream")
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Accel-Buffering"] == "no"
        assert headers["Connection"] == "close"
        assert headers["Content-Length"] is None


def test_live_events_have_type_data_and_id(server, events, topic):
    with server.stream(events) as stream, server.stream(events + "?names=off") as nameless:
        stream.read()
        nameless.read()
        server.post(topic, [{"type": "order", "rating": 4}, {"type": "reset", "rating": 5}, {"rating": 1}])
        messages = [stream.next() for _ in range(3)]
        assert [message.event for message in messages] == ["order", "message", "message"]
        assert [json.loads(message.data)["rating"] for message in messages] == [4, 5, 1]
        assert len({message.id for message in messages}) == 3
        assert [nameless.next().event for _ in range(3)] == ["message"] * 3


OWN_NAMES = ("open", "error", "reset", "heartbeat", "corrected", "deleted")
FRAME_NAMES = ("snapshot", "update", "gone")


@pytest.mark.parametrize("resumes", [False, True], ids=["live", "from the log"])
def test_only_names_that_the_server_uses_on_a_stream_are_kept_from_events(shared_server, topic, resumes):
    server, types = shared_server, ["order", *OWN_NAMES, *FRAME_NAMES]
    cursor = {"Last_Event_ID": "earliest"} if resumes else {}
    if resumes:
        server.post(topic, [{"type": name} for name in types])
    with ExitStack() as opened:
        alone = opened.enter_context(server.stream(f"/v1/topics/{topic}/events", **cursor))
        beside = opened.enter_context(server.stream(f"/v1/stream?events={topic}&stats={topic}", **cursor))
        nameless = opened.enter_context(server.stream(f"/v1/stream?events={topic}&names=off", **cursor))
        for stream in (alone, beside, nameless):
            stream.read()
        if not resumes:
            server.post(topic, [{"type": name} for name in types])
        for stream, kept in ((alone, OWN_NAMES), (beside, OWN_NAMES + FRAME_NAMES), (nameless, types)):
            seen = {}
            while len(seen) < len(types):
                event, data = stream.frame()
                if "$offset" in data:
                    seen[data["type"]] = event
            assert seen == {name: "message" if name in kept else name for name in types}


def test_snapshot_and_updates_add_up_to_the_state_of_the_server(server, stats, topic):
    server.post(topic, [{"key": "pizza", "rating": 4}, {"key": "soup", "rating": 2}])
    until(lambda: server.stats(topic)["offset"] == 2)
    table = Table()
    with server.stream(stats) as stream:
        event, first = stream.frame()
        table.apply(event, first)
        assert event == "snapshot"
        assert first["columns"] == [
            "key",
            "field",
            "count",
            "rate",
            "sum",
            "mean",
            "min",
            "max",
            "std",
            "p50",
            "p95",
            "p99",
        ]
        assert table.rows[None, "rating"][2:6] == [2, 2 / 60, 6, 3]
        assert table.rows["pizza", None][2:] == [1, 1 / 60, *[None] * 8]
        for rating in range(5):
            server.post(topic, {"key": "pizza", "rating": rating})
        follow(stream, table, 7)
        assert table.frames.count("snapshot") == 1
    state = server.stats(topic)
    assert state["offset"] == 7
    assert {(row[0], row[1]): row for row in state["data"]} == table.live()


def test_frames_of_all_windows_form_a_set_and_the_last_has_the_id(server, stats, topic):
    server.post(topic, {"rating": 1})
    until(lambda: server.stats(topic, "?window=15m")["offset"] == 1)
    with server.stream(stats + "?window=*") as stream:
        messages = [stream.next() for _ in range(3)]
        assert [json.loads(message.data)["window"] for message in messages] == ["1m", "5m", "15m"]
        assert [bool(message.id) for message in messages] == [False, False, True]


def test_stream_contains_only_the_selected_rows(server, stats, topic):
    server.post(topic, [{"key": "pizza", "rating": 4}, {"key": "soup", "rating": 2, "price": 7}])
    until(lambda: server.stats(topic)["offset"] == 2)
    query = "?key=soup&field=rating&shape=records"
    assert [row["sum"] for row in server.stats(topic, query)["data"]] == [2]
    assert [row[:2] for row in server.stats(topic, "?key=&field=")["data"]] == [[None, None]]
    best = server.stats(topic, "?field=rating&top=1&by=mean")["data"]
    assert [row[0] for row in best] == [None, "pizza"]
    with server.stream(stats + query) as stream:
        assert [row["sum"] for row in stream.frame()[1]["data"]] == [2]
        server.post(topic, {"key": "pizza", "rating": 4})
        server.post(topic, {"key": "soup", "rating": 5})
        assert [row["sum"] for row in stream.frame()[1]["data"]] == [7]


def test_at_least_waits_for_own_writes_and_etag_gives_not_modified(server, events, stats, topic):
    offset = server.post(topic, {"rating": 1}).json()["last_offset"]
    answer = server.get(f"{stats}?at_least={offset}", Accept="application/json")
    assert answer.json()["offset"] >= offset
    tag = answer.headers["ETag"]
    assert server.get(stats, If_None_Match=tag).status == 304
    csv = server.get(f"{stats}?window=*&format=csv").body.decode().splitlines()
    assert csv[0].startswith("window,scope,key,field,count")
    assert sorted(line.split(",")[:4] for line in csv[1:]) == sorted(
        [window, scope, "", field]
        for window in ("1m", "5m", "15m")
        for scope, field in (("events", ""), ("all", "rating"))
    )


def test_stream_of_a_missing_topic_waits_for_its_creation(server, events, stats, topic):
    with server.stream(stats) as statistics, server.stream(events) as raw:
        event, first = statistics.frame()
        assert (event, first["exists"], first["data"]) == ("snapshot", False, [])
        raw.read()
        server.post(topic, {"rating": 3})
        assert json.loads(raw.next().data)["rating"] == 3
        assert statistics.until(lambda _, data: data["offset"] == 1)["data"]


def test_stream_from_the_earliest_event_continues_live(server, events, topic):
    server.post(topic, [{"n": n} for n in range(2_500)])
    with server.stream(events + "?last_event_id=earliest") as stream:
        seen = [json.loads(stream.next().data)["n"] for _ in range(2_500)]
        server.post(topic, {"n": 2_500})
        seen.append(json.loads(stream.next().data)["n"])
    assert seen == list(range(2_501))


def test_reader_that_disconnects_anywhere_resumes_without_gap_or_repeat(server, events, topic):
    """Four producers publish. The reader disconnects after every few messages and sends its cursor in the header and in
    the query by turns."""

    def post(worker):
        for number in range(20):
            server.post(topic, [{"worker": worker, "n": number, "i": i} for i in range(7)])

    seen, cursor, turns = [], "earliest", 0
    with ThreadPoolExecutor(4) as posters:
        for worker in range(4):
            posters.submit(post, worker)
        while len(seen) < 4 * 20 * 7:
            turns += 1
            by_header = turns % 2
            path = events if by_header else f"{events}?last_event_id={cursor}"
            with server.stream(path, **({"Last-Event-ID": cursor} if by_header else {})) as stream:
                for _ in range(min(37, 560 - len(seen))):
                    message = stream.next()
                    seen.append(json.loads(message.data)["$offset"])
                    cursor = message.id
    assert seen == list(range(1, 561))
    assert turns > 10


def test_statistics_resume_with_the_missed_updates(server, stats, topic):
    server.post(topic, [{"key": f"k{n}", "rating": n} for n in range(50)])
    until(lambda: server.stats(topic)["offset"] == 50)
    table = Table()
    with server.stream(stats) as stream:
        table.apply(*stream.frame())
        cursor = stream.decoder.last_id
    server.post(topic, {"key": "k1", "rating": 9})
    until(lambda: server.stats(topic)["offset"] == 51)
    with server.stream(stats, Last_Event_ID=cursor) as stream:
        event, data = stream.frame()
        assert event == "update"
        table.apply(event, data)
        follow(stream, table, 51)
    assert table.rows["k1", "rating"][4] == 10


def test_unreadable_cursor_is_a_reset_not_an_error(server, events, stats, topic):
    server.post(topic, {"rating": 1})
    until(lambda: server.stats(topic)["offset"] == 1)
    for path, follows in ((events, "message"), (stats, "snapshot"), (f"{stats}?top=2", "snapshot")):
        for cursor in ("nonsense", "x" * 599):
            with server.stream(path, Last_Event_ID=cursor) as stream:
                event, data = stream.frame()
                assert (event, data["topic"]) == ("reset", topic)
                assert data["reason"] in ("trimmed", "deleted", "broker-restarted")
                assert stream.frame()[0] == follows


def test_deleting_a_topic_resets_its_streams(server, events, stats, topic):
    server.post(topic, {"rating": 1})
    until(lambda: server.stats(topic)["offset"] == 1)
    with server.stream(stats) as statistics, server.stream(events) as raw:
        statistics.frame()
        raw.read()
        cursor = statistics.decoder.last_id
        assert server.request("DELETE", f"/v1/topics/{topic}").status == 204
        assert raw.until(lambda event, _: event == "reset")["reason"] == "deleted"
        assert statistics.until(lambda event, _: event == "reset")["reason"] == "deleted"
        server.post(topic, {"rating": 5})
        assert json.loads(raw.next().data)["rating"] == 5
        assert statistics.until(lambda event, data: event != "reset" and data["offset"] == 2)["data"][0][2] == 1
    with server.stream(stats, Last_Event_ID=cursor) as late:
        assert late.frame()[1]["reason"] == "deleted"


def test_events_by_redis_publish_are_stored_and_counted(server, topic):
    client = client_of(server.redis_url)
    channel = f"{server.prefix}ingest:{topic}"
    until(lambda: client.publish(channel, '{"key":"pizza","rating":4}'))
    until(lambda: server.stats(topic).get("offset"))
    for message in ('[{"rating":1},{"rating":2}]', '{"rating":3}\n{"rating":4}', "nonsense", '{"time":5}'):
        client.publish(channel, message)
    figures = until(lambda: (f := server.get(f"/v1/topics/{topic}").json())["refused"] == 2 and f)
    assert figures["last_refusal"]
    assert figures["last_offset"] == 5
    until(lambda: server.stats(topic)["offset"] == 5)
    client.publish(f"{server.prefix}ingest:bad topic", '{"a":1}')
    client.publish(channel, '{"rating":5}')
    until(lambda: server.stats(topic)["offset"] == 6)


@pytest.mark.parametrize("option", ["--io-uring", "--no-io-uring"])
def test_200_streams_receive_every_event_with_and_without_io_uring(stack, topic, option):
    stack.start_web(option)
    with ExitStack() as opened:
        streams = [opened.enter_context(stack.stream(f"/v1/topics/{topic}/events")) for _ in range(200)]
        for stream in streams:
            stream.read()
        for number in range(5):
            assert stack.post(topic, {"n": number}).status == 202
        for stream in streams:
            assert [json.loads(stream.next().data)["n"] for _ in range(5)] == list(range(5))
        sender = choose_sender(io_uring=option == "--io-uring")
        sender.close()
        rings = int(isinstance(sender, UringSender))
        until(lambda: f"pushsvc_io_uring {rings}.0".encode() in stack.get("/metrics").body)


def test_two_workers_share_the_port(stack, events, topic):
    stack.start_aggregator()
    stack.start_web("--workers", "2")
    streams = [stack.stream(events) for _ in range(8)]
    opened = [stream.__enter__() for stream in streams]
    for stream in opened:
        stream.read()
    until(lambda: stack.get("/metrics").body.count(b"pushsvc_streams 8.0"))
    for number in range(20):
        assert stack.post(topic, {"n": number}).status == 202
    for stream in opened:
        assert [json.loads(stream.next().data)["n"] for _ in range(20)] == list(range(20))
    for stream in streams:
        stream.__exit__(None, None, None)


def test_list_of_topics_is_also_a_stream(own_server, topic):
    with own_server.stream("/v1/topics") as stream:
        assert stream.frame() == ("topics", {"topics": []})
        own_server.post(topic, {"n": 1})
        assert [topic["topic"] for topic in stream.frame()[1]["topics"]] == [topic]


def test_stream_of_changes_sends_the_list_once(own_server):
    """Streams with and without changes are open at once: each gets its own messages."""
    own_server.post("a", {"n": 1})
    with own_server.stream("/v1/topics?changes=1") as changes, own_server.stream("/v1/topics") as whole:
        event, first = changes.frame()
        assert (event, [topic["topic"] for topic in first["topics"]], first["total"]) == ("topics", ["a"], 1)
        assert "total" not in whole.frame()[1]
        own_server.post("b", {"n": 1})
        event, change = changes.frame()
        assert (event, change["removed"], change["total"]) == ("changes", [], 2)
        assert change["added"] == [topic for topic in whole.frame()[1]["topics"] if topic["topic"] == "b"]
        assert own_server.request("DELETE", "/v1/topics/a").status == 204
        assert changes.frame() == ("changes", {"added": [], "removed": ["a"], "total": 1})
        with own_server.stream("/v1/topics?changes=1") as late:
            event, first = late.frame()
            assert (event, [topic["topic"] for topic in first["topics"]], first["total"]) == ("topics", ["b"], 1)


def test_sigterm_ends_streams_with_a_retry(stack, stats):
    """The process ends as soon as its streams have ended, long before the drain's deadline."""
    stack.start_aggregator()
    stack.start_web("--drain", "600")
    with stack.stream(stats) as stream:
        stream.frame()
        assert stack.stop("web") == 0
        rest = stream.rest()
        assert b"retry: " in rest.split(b"data: ")[-1]


def test_cursor_of_another_worker_is_not_a_reset(stack, topic):
    """A worker may have read less than the worker that gave the cursor: it must not assume that Redis restarted."""
    stack.start_web("--workers", "2")
    path = f"/v1/topics/{topic}/events"
    with ThreadPoolExecutor(2) as pool:
        posting = pool.submit(lambda: [stack.post(topic, {"n": n}) for n in range(150)])
        idle = [stack.stream(path) for _ in range(6)]
        for stream in idle:
            stream.__enter__().read()
        seen, cursor = [], "earliest"
        while len(seen) < 150:
            with stack.stream(path, Last_Event_ID=cursor) as stream:
                message = stream.next()
                seen.append(json.loads(message.data).get("n", message.event))
                cursor = message.id
        posting.result()
        for stream in idle:
            stream.__exit__(None, None, None)
    assert seen == list(range(150))


def test_heartbeat_is_a_comment_where_every_event_is_sent(stack, topic):
    """The last event of such a stream has the cursor, also while events of other topics of the partition arrive."""
    stack.start_web("--heartbeat", "1")
    neighbour = next(name for n in range(10_000) if partition_of(name := f"n{n}") == partition_of(topic))
    stack.post(topic, {"n": 1})
    with stack.stream(f"/v1/topics/{topic}/events?last_event_id=earliest") as stream:
        cursor = stream.next().id
        stack.post(neighbour, [{"n": n} for n in range(50)])
        until(lambda: (stream.read(), stream.raw.endswith(b": heartbeat\n: heartbeat\n"))[1])
        assert stream.decoder.last_id == cursor
        stack.post(topic, {"n": 2})
        assert json.loads(stream.next().data)["n"] == 2
    with stack.stream(f"/v1/topics/{topic}/events", Last_Event_ID=cursor) as resumed:
        assert json.loads(resumed.next().data)["n"] == 2
    with stack.stream(f"/v1/topics/{topic}/stats?heartbeat=event") as stream:
        assert stream.until(lambda event, _: event == "heartbeat")["at"] > 1_600_000_000_000


@pytest.mark.parametrize("filter", ["", "key=a&"])
def test_first_visible_heartbeat_has_the_cursor(server, topic, filter):
    path = f"/v1/topics/{topic}/events?{filter}heartbeat=event"
    with server.stream(path) as stream:
        first = stream.next()
        assert first.event == "heartbeat"
    server.post(topic, {"key": "a", "n": 1})
    with server.stream(path, Last_Event_ID=first.id) as stream:
        assert stream.until(lambda event, _: event == "message")["n"] == 1


def test_heartbeat_of_a_stream_that_filters_moves_the_cursor(stack):
    stack.start_aggregator()
    stack.start_web("--heartbeat", "1")
    with stack.stream("/v1/topics/shop/stats?key=a") as stream:
        newest = heartbeat = stream.next()
        while heartbeat.event != "heartbeat" or heartbeat.id == newest.id:
            stack.post("shop", [{"key": "b", "n": n} for n in range(50)])
            newest, heartbeat = (newest if heartbeat.event == "heartbeat" else heartbeat), stream.next()
        assert json.loads(heartbeat.data)["at"] > 1_600_000_000_000
    with stack.stream("/v1/topics/shop/stats?key=a", Last_Event_ID=heartbeat.id) as resumed:
        stack.post("shop", {"key": "a", "n": 1})
        frames = []
        while not frames or frames[-1]["data"] == []:
            event, data = resumed.frame()
            assert event != "snapshot", "the cursor was not understood"
            frames += [data] if event == "update" else []
        assert frames[-1]["data"][0][0] == "a"


def test_reset_without_events_after_it_is_sent_once(stack, topic):
    """No event has a cursor after the reset, so a heartbeat brings it."""
    stack.start_web("--heartbeat", "1")
    stack.post(topic, {"n": 1})
    path = f"/v1/topics/{topic}/events"
    with stack.stream(path, Last_Event_ID="unreadable") as stream:
        assert stream.frame()[0] == "reset"
        stream.next()
        stack.request("DELETE", f"/v1/topics/{topic}")
        assert stream.frame() == ("reset", {"topic": topic, "reason": "deleted"})
        heartbeat = stream.next()
        assert heartbeat.event == "heartbeat"
    with stack.stream(path, Last_Event_ID=heartbeat.id) as resumed:
        stack.post(topic, {"n": 2})
        assert json.loads(resumed.next().data)["n"] == 2


def test_topic_with_several_groupings_has_rows_of_each(stack):
    stack.configure('[topics."flights"]\nkey = ["carrier", "origin", "carrier+origin"]\nwindows = ["10s"]\n')
    stack.start_aggregator()
    stack.start_web()
    flights = [("UA", "EWR", 5), ("UA", "JFK", 7), ("JFK", None, 1)]
    stack.post("flights", [{"carrier": c, "origin": o, "delay": d} for c, o, d in flights])
    until(lambda: stack.stats("flights")["offset"] == 3)
    rows, path = {}, "/v1/topics/flights/stats"
    with stack.stream(path) as stream:
        while not rows or any(key is not None for key, _, _ in rows):  # until every row was sent and removed
            _, frame = stream.frame()
            rows.update({(row[0], row[1], row[-1]): row[2] for row in frame["data"]})
            if not frame.get("gone"):
                continue
            for place in frame["gone"]:
                del rows[tuple(place)]
        assert frame["columns"][-1] == "by"
    stack.post("flights", [{"carrier": "JFK", "origin": "JFK", "delay": 2}])
    until(lambda: stack.stats("flights")["offset"] == 4)
    data = stack.stats("flights")["data"]
    assert {(row[0], row[1], row[-1]): row[2] for row in data} == {
        (key, field, by): 1
        for key, by in [(None, None), ("JFK", "carrier"), ("JFK", "origin"), ("JFK+JFK", "carrier+origin")]
        for field in (None, "delay")
    }
    csv = stack.get(path + "?format=csv&field=delay").body.decode().splitlines()
    assert csv[0].endswith(",p99,by")
    assert [line for line in csv if line.endswith(",carrier")] == [
        "10s,key,JFK,delay,1,0.1,2.0,2.0,2.0,2.0,,2.0,2.0,2.0,carrier"
    ]


def test_subscriber_that_resumes_from_a_heartbeat_continues_live(stack, topic):
    """Other topics of the partition have advanced the heartbeat's cursor beyond every event that was sent."""
    stack.start_web("--heartbeat", "1")
    other = next(name for n in count() if partition_of(name := f"{topic}-{n}") == partition_of(topic))
    path, beside = f"/v1/topics/{topic}/events?heartbeat=event", f"/v1/topics/{other}/events"
    with stack.stream(path) as stays, stack.stream(path) as stream, stack.stream(beside):
        stream.read()
        stack.post(topic, {"n": 1})
        stream.until(lambda event, _: event == "message")
        sent = stream.decoder.last_id
        stack.post(other, {"n": 1})
        until(lambda: stream.read() and stream.decoder.last_id != sent)
        with stack.stream(path, Last_Event_ID=stream.decoder.last_id) as again:
            stack.post(topic, {"n": 2})
            for subscriber, numbers in ((again, [2]), (stays, [1, 2])):
                assert [subscriber.until(lambda event, _: event == "message")["n"] for _ in numbers] == numbers
