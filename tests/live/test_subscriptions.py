"""Several subscriptions on one stream: each has its own filters, and equals a stream of its own."""

from __future__ import annotations

import json
from collections import defaultdict
from contextlib import ExitStack
from random import Random
from urllib.parse import urlencode

import pytest

from pushsvc.cursor import name_of, split
from support.latest import Board
from support.stack import Table
from support.waiting import until


def stream_of(*subs, **parameters):
    return "/v1/stream?" + urlencode([*(("sub", sub) for sub in subs), *parameters.items()])


def history(server, sub):
    """Return the events that a subscription selects, as an answer of its own gives them."""
    topic, _, query = sub.removeprefix("events/").partition("?")
    return server.get(f"/v1/topics/{topic}/events.json?limit=10000&{query}").json()["events"]


class Received:
    """What each subscription has sent, by its text. Without the label messages are those of single streams."""

    def __init__(self):
        self.events = defaultdict(list)
        self.tables = defaultdict(Table)
        self.boards = defaultdict(Board)
        self.resets = []

    def take(self, message):
        data = json.loads(message.data)
        if message.event == "heartbeat":
            assert data.keys() == {"at"}
            return
        if message.event == "reset":
            self.resets.append(data)
            return
        if "$sub" in data:
            sub = data.pop("$sub")
            assert sub.startswith("events/")
            self.events[sub].append(data)
            return
        sub = data.pop("sub")
        if sub.startswith("latest/"):
            self.boards[sub].apply(message.event, data)
        else:
            self.tables[sub].apply(message.event, data)


def test_each_message_names_its_subscription(server, topic):
    job = f"job.{topic}"
    subs = (f"events/{topic}?key=a", f"events/{topic}", f"stats/{topic}?window=1m&key=a", f"latest/{job}")
    with server.stream(stream_of(*subs)) as stream:
        received = Received()
        for _ in range(2):
            received.take(stream.next())
        server.post(topic, [{"key": "a", "n": 1, "sub": "mine"}, {"key": "b", "n": 2}])
        server.post(job, {"key": "done", "n": 3})
        while not (
            len(received.events[subs[1]]) == 2
            and any(row[2] for row in received.tables[subs[2]].live().values())
            and received.boards[subs[3]].events
        ):
            received.take(stream.next())
    assert [event["n"] for event in received.events[subs[0]]] == [1]
    assert received.events[subs[0]][0]["sub"] == "mine"
    assert [event["n"] for event in received.events[subs[1]]] == [1, 2]
    assert {key for key, _, *_ in received.tables[subs[2]].live()} == {"a"}
    assert [event["n"] for event in received.boards[subs[3]].events.values()] == [3]


@pytest.mark.parametrize("start", ["start_web", "start_iterated"])
def test_list_of_topics_is_a_subscription_with_its_changes(stack, topic, start):
    """Where the stream begins again, the list does, too; other subscriptions go on."""
    stack.start_aggregator()
    getattr(stack, start)()
    stack.post(topic, {"n": 1})
    subs = ("topics?changes=1", f"stats/{topic}?window=1m")
    with stack.stream(stream_of(*subs)) as stream:
        messages = [stream.next() for _ in range(2)]
        lists = [json.loads(message.data) for message in messages if message.event == "topics"]
        assert [data["sub"] for data in lists] == [subs[0]]
        assert [each["topic"] for each in lists[0]["topics"]] == [topic]
        stack.post(f"new.{topic}", {"n": 1})
        added = []
        while not any(each["topic"] == f"new.{topic}" for each in added):
            message = stream.next()
            if message.event == "changes":
                added += json.loads(message.data)["added"]


def test_events_named_as_statistics_have_no_name(server, topic):
    with server.stream(stream_of(f"events/{topic}")) as stream:
        stream.read()
        server.post(topic, [{"type": name} for name in ("update", "snapshot", "gone", "reset", "created")])
        messages = [stream.next() for _ in range(5)]
    assert [message.event for message in messages] == ["message"] * 4 + ["created"]
    assert [json.loads(message.data)["type"] for message in messages[:2]] == ["update", "snapshot"]


def test_quiet_subscription_resumes_from_the_beginning_of_its_stream(server, topic):
    """One subscription had no message when the stream was cut. What was published meanwhile must come."""
    loud, quiet = f"events/{topic}.loud", f"events/{topic}.quiet"
    server.post(f"{topic}.quiet", {"n": 0})
    with server.stream(stream_of(loud, quiet)) as stream:
        stream.read()
        server.post(f"{topic}.loud", {"n": 1})
        cursor = stream.next().id
    server.post(f"{topic}.quiet", {"n": 2})
    with server.stream(stream_of(loud, quiet), Last_Event_ID=cursor) as stream:
        data = stream.frame()[1]
        assert (data["$sub"], data["n"]) == (quiet, 2)


def test_subscription_that_begins_without_room_gets_each_event_once(server, topic):
    """A snapshot larger than what one write takes is sent before the next subscription begins to read the log."""
    assert server.post(f"job.{topic}", [{"key": f"k{i}", "text": "x" * 10_000} for i in range(100)]).status == 202
    assert server.post(topic, [{"n": n} for n in range(200)]).status == 202
    subs = [f"latest/job.{topic}", f"events/{topic}", f"events/{topic}?where=n>99"]
    received = Received()
    with server.stream(stream_of(*subs, last_event_id="earliest")) as stream:
        while len(received.events[subs[1]]) < 200 or len(received.events[subs[2]]) < 100:
            received.take(stream.next())
        assert server.post(topic, {"n": 200}).status == 202
        while len(received.events[subs[1]]) < 201 or len(received.events[subs[2]]) < 101:
            received.take(stream.next())
    assert [event["n"] for event in received.events[subs[1]]] == list(range(201))
    assert [event["n"] for event in received.events[subs[2]]] == list(range(100, 201))


def test_other_subscriptions_continue_when_one_is_added(server, topic):
    job = f"job.{topic}"
    old, new = f"events/{topic}", (f"stats/{topic}", f"latest/{job}", f"events/{topic}.new")
    server.post(f"{topic}.new", {"n": 0})
    server.post(job, {"key": "a"})
    with server.stream(stream_of(old)) as stream:
        stream.read()
        server.post(topic, {"n": 1})
        cursor = stream.next().id
    server.post(topic, {"n": 2})
    with server.stream(stream_of(*new, old), Last_Event_ID=cursor) as stream:
        messages = [stream.frame() for _ in range(3)]
        server.post(f"{topic}.new", {"n": 3})
        last = stream.until(lambda _, data: data.get("$sub") == new[2])
    found = {data.get("sub") or data["$sub"]: (event, data) for event, data in messages}
    assert (found[new[0]][0], found[new[1]][0]) == ("snapshot", "snapshot")
    assert found[old][1]["n"] == 2
    assert last["n"] == 3


def test_order_of_subscriptions_does_not_matter_to_a_cursor(server, topic):
    one, other = f"events/{topic}.a", f"events/{topic}.b"
    with server.stream(stream_of(one, other)) as stream:
        stream.read()
        server.post(f"{topic}.a", {"n": 1})
        cursor = stream.next().id
    server.post(f"{topic}.b", {"n": 2})
    with server.stream(stream_of(other, one, last_event_id=cursor)) as stream:
        assert stream.frame()[1]["n"] == 2


@pytest.mark.parametrize("cursor", ["nonsense", "s.", "s.AAAAAA!", "s" + ".AAAAAAxyz" * 65, "s.AAAAAA" + "x" * 700])
def test_unreadable_cursor_is_answered_with_resets(server, topic, cursor):
    server.post(topic, {"n": 1})
    with server.stream(stream_of(f"events/{topic}"), Last_Event_ID=cursor) as stream:
        event, data = stream.frame()
        assert (event, data["sub"], data["reason"]) == ("reset", f"events/{topic}", "trimmed")
        assert stream.frame()[1]["n"] == 1


def test_earliest_is_for_all_events(server, topic):
    for n in range(3):
        server.post(f"{topic}.{n}", {"n": n})
    subs = [f"events/{topic}.{n}" for n in range(3)]
    with server.stream(stream_of(*subs, last_event_id="earliest")) as stream:
        assert sorted(stream.frame()[1]["n"] for _ in range(3)) == [0, 1, 2]


def test_filters_of_patterns_select_events_of_all_their_topics(server, topic):
    for n in range(20):
        server.post(f"{topic}.{n % 3}", {"key": "ab"[n % 2], "n": n, "type": "x" if n % 5 else "y"})
    sub = f"events/{topic}.*?key=a&where=n>5&type=x"
    with server.stream(stream_of(sub, last_event_id="earliest")) as stream:
        wanted = {n for n in range(6, 20) if n % 2 == 0 and n % 5}
        assert {stream.frame()[1]["n"] for _ in wanted} == wanted
        server.post(f"{topic}.1", [{"key": "b", "n": 50, "type": "x"}, {"key": "a", "n": 51, "type": "x"}])
        assert stream.frame()[1]["n"] == 51


@pytest.mark.parametrize("seed", range(3))
def test_subscriptions_equal_separate_streams(server, topic, seed):
    """Random publishes, cuts and reconnections. Every subscription ends where an answer of its own is."""
    chance = Random(seed)
    topics = [f"{topic}.{name}" for name in "abc"]
    job = f"job.{topic}"
    of_events = [
        f"events/{topics[0]}?key=k1", f"events/{topics[0]}", f"events/{topics[1]}?where=n>500",
        f"events/{topics[2]}?type=moved&key=k0",
    ]  # fmt: skip
    of_rows = [f"stats/{topics[0]}?window=1m", f"stats/{topics[1]}?window=5m&key=k2"]
    of_states = [f"latest/{job}", f"latest/{job}?key=k1&key=k3"]
    pattern = f"events/{topic}.>?where=n<200"
    subs = [*of_events, *of_rows, *of_states, pattern]
    received, cursor, number = Received(), None, 0
    with server.stream(stream_of(*subs)) as stream:
        for _ in range(len(of_rows) + len(of_states)):
            message = stream.next()
            cursor = message.id or cursor
            received.take(message)
    last = {}
    for _ in range(12):
        for _ in range(chance.randrange(4)):
            name = chance.choice([*topics, job])
            events = [
                {"key": f"k{chance.randrange(5)}", "n": chance.randrange(1000), "number": (number := number + 1),
                 **({"type": chance.choice(["moved", "deleted"])} if chance.random() < 0.4 else {})}
                for _ in range(chance.randrange(1, 30))
            ]  # fmt: skip
            answer = server.post(name, events)
            assert answer.status == 202
            last[name] = answer.json()["last_offset"]
        chance.shuffle(subs)
        with server.stream(stream_of(*subs), Last_Event_ID=cursor) as stream:
            for _ in range(chance.randrange(60)):
                if complete(server, received, of_events, pattern, topics):
                    break
                message = stream.next()
                cursor = message.id or cursor
                received.take(message)
    with server.stream(stream_of(*subs), Last_Event_ID=cursor) as stream:
        wanted_boards = {sub: latest(server, sub) for sub in of_states}
        wanted_tables = {sub: table(server, sub, last) for sub in of_rows}
        while not (
            complete(server, received, of_events, pattern, topics)
            and all(list(received.boards[sub].events.values()) == wanted for sub, wanted in wanted_boards.items())
            and all(counts(received.tables[sub].live()) == wanted for sub, wanted in wanted_tables.items())
        ):
            received.take(stream.next())
    assert not received.resets
    for sub in of_events:
        assert received.events[sub] == history(server, sub)


def complete(server, received, of_events, pattern, topics):
    matched = sum(len(history(server, f"events/{name}?where=n<200")) for name in topics)
    assert len(received.events[pattern]) <= matched
    return len(received.events[pattern]) == matched and all(
        len(received.events[sub]) == len(history(server, sub)) for sub in of_events
    )


def latest(server, sub):
    topic, _, query = sub.removeprefix("latest/").partition("?")
    return server.get(f"/v1/topics/{topic}/latest?{query}", Accept="application/json").json()["events"]


def table(server, sub, last):
    topic, _, query = sub.removeprefix("stats/").partition("?")
    found = Table()
    found.apply("snapshot", server.stats(topic, f"?{query}&at_least={last.get(topic, 1)}"))
    return counts(found.live())


def counts(rows):
    """Return the counts of rows: what every event changes, and time does not within a window of a minute."""
    return {name: row[2] for name, row in rows.items()}


SUB = "events/orders"


@pytest.mark.parametrize(("subs", "place", "status", "says"), [
    ([f"events/t{n}" for n in range(65)], 64, 400, "at most 64"),
    (["events/orders?where=" + "x" * 2_000], 0, 400, "1024 bytes"),
    ([SUB, "stream?sub=events/orders"], 1, 400, "relative URL"),
    ([SUB, "events/orders?sub=events/orders"], 1, 400, "sub: not supported here"),
    (["../.."], 0, 400, "relative URL"),
    (["events/../../metrics"], 0, 400, "not a topic"),
    (["events/..%2F..%2Fmetrics"], 0, 400, "not a topic"),
    (["/v1/topics/orders/events"], 0, 400, "relative URL"),
    (["http://example.com/events/orders"], 0, 400, "relative URL"),
    (["//example.com/orders"], 0, 400, "relative URL"),
    ([""], 0, 400, "relative URL"),
    (["events"], 0, 400, "relative URL"),
    (["events/"], 0, 400, "not a topic"),
    (["Events/orders"], 0, 400, "relative URL"),
    (["events/orders#x"], 0, 400, "fragment"),
    ([SUB, SUB], 1, 400, "the same as sub[0]"),
    (["events/orders?key=a&key=b"], 0, 400, "key: given more than once"),
    (["stats/orders?window=1m&window=5m"], 0, 400, "window: given more than once"),
    (["events/orders?key=%zz"], 0, 400, "escape"),
    (["events/orders?key=%"], 0, 400, "escape"),
    (["events/orders?key=%ff"], 0, 400, "UTF-8"),
    (["events/%ff"], 0, 400, "UTF-8"),
    (["events/orders?" + "&".join(["key=a"] * 101)], 0, 400, "more than 100 parameters"),
    (["events/orders?where=nonsense"], 0, 400, "where"),
    (["events/orders?where=n>1&where=!"], 0, 400, "where"),
    (["events/orders?limit=5"], 0, 400, "limit: not supported"),
    (["events/orders?last_event_id=earliest"], 0, 400, "last_event_id: not supported"),
    (["events/orders?format=sse"], 0, 400, "format: not supported"),
    (["stats/orders?window=7y"], 0, 400, "window"),
    (["stats/orders?top=0"], 0, 400, "top"),
    (["stats/orders?every=1ns"], 0, 400, "every"),
    (["stats/orders.*?top=3"], 0, 400, "top: belongs to the statistics of one topic"),
    (["latest/job.*"], 0, 400, "not a topic"),
    (["latest/orders"], 0, 404, "newest"),
    (["topics?search=a"], 0, 400, "search"),
    (["topics/a"], 0, 400, "not a relative URL"),
    (["latest/job.x?key="], 0, 400, "key"),
    (["events/a.>.b"], 0, 400, "not a topic"),
    (["events/orders\n"], 0, 400, "not a topic"),
    (["events/orders\0"], 0, 400, "not a topic"),
    (["latest/job.x\r\nevent: reset"], 0, 400, "not a topic"),
])  # fmt: skip
def test_bad_subscription_is_refused_by_its_place(shared_server, subs, place, status, says):
    answer = shared_server.get(stream_of(*subs), Accept="text/event-stream")
    problem = answer.json()
    assert (answer.status, problem["status"]) == (status, status), problem
    assert problem["detail"].startswith(f"sub[{place}]: ")
    assert says in problem["detail"]


@pytest.mark.parametrize(("query", "says"), [
    ("sub=events/a&events=b", "events: does not go together with sub"),
    ("sub=events/a&stats=b", "stats: does not go together with sub"),
    ("sub=stats/a&window=1m", "window: stands inside a sub"),
    ("sub=events/a&key=k", "key: stands inside a sub"),
    ("sub=events/a&key=k&where=x", "where: not supported here"),
    ("sub=events/a&names=maybe", "names"),
    ("sub=events/a&format=csv", "format"),
])  # fmt: skip
def test_parameters_beside_subscriptions_are_refused(shared_server, query, says):
    answer = shared_server.get(f"/v1/stream?{query}", Accept="text/event-stream")
    assert (answer.status, says in answer.json()["detail"]) == (400, True), answer


def test_text_of_a_subscription_comes_back_exactly(server, topic):
    sub = f'events/{topic}?key=%C3%BC%22%5C:+x&where=note~ü"\n\r\nid: x'
    with server.stream(stream_of(sub)) as stream:
        stream.read()
        assert server.post(topic, {"key": 'ü"\\: x', "note": 'an Ü"\n\r\nID: x'}).status == 202
        assert stream.frame()[1]["$sub"] == sub


def test_names_off_sends_all_events_as_message(server, topic):
    with server.stream(stream_of(f"events/{topic}", names="off")) as stream:
        stream.read()
        server.post(topic, {"type": "created"})
        assert stream.next().event == "message"


def test_heartbeat_carries_a_position_that_moved_without_a_message(stack, topic):
    stack.start_web("--heartbeat", "1")
    filtered, other = f"events/{topic}?key=a", f"events/{topic}.other"
    with stack.stream(stream_of(filtered, other)) as stream:
        stream.read()
        stack.post(f"{topic}.other", {"n": 1})
        message = stream.next()
        while message.event == "heartbeat":
            message = stream.next()
        stack.post(topic, {"key": "b", "n": 2})
        heartbeat = until(lambda: (found := stream.next()).event == "heartbeat" and found)
        before, after = split(message.id), split(heartbeat.id)
        assert [name for name in before if before[name] != after[name]] == [name_of(filtered)]
        silent = stream.raw.count(b": heartbeat\n")
        while stream.raw.count(b": heartbeat\n") < silent + 2:  # nothing moved since
            stream.read()
    with stack.stream(stream_of(filtered, other), Last_Event_ID=heartbeat.id) as stream:
        stack.post(topic, {"key": "a", "n": 3})
        assert stream.frame()[1]["n"] == 3


def test_visible_heartbeats(stack, topic):
    stack.start_web("--heartbeat", "1")
    with stack.stream(stream_of(f"events/{topic}", heartbeat="event")) as stream:
        assert [stream.next().event for _ in range(3)] == ["heartbeat"] * 3


@pytest.mark.parametrize("last_id", [None, "earliest"])
def test_cursor_of_the_first_heartbeat_misses_nothing(server, topic, last_id):
    """The client is cut off before any other message came."""
    subs = [f"events/{topic}", f"events/{topic}?key=a", f"events/{topic}.>", f"latest/job.{topic}"]
    given = {"Last_Event_ID": last_id} if last_id else {}
    server.post(topic, {"key": "a", "n": 0})
    with server.stream(stream_of(*subs, heartbeat="event"), **given) as stream:
        first = stream.next()
        assert first.event == "heartbeat"
    server.post(topic, {"key": "a", "n": 1})
    server.post(f"{topic}.new", {"n": 2})
    server.post(f"job.{topic}", {"key": "a", "n": 3})
    start = 0 if last_id else 1
    wanted = {subs[0]: history(server, subs[0])[start:], subs[1]: history(server, subs[1])[start:]}
    wanted[subs[2]] = history(server, f"events/{topic}.new")
    received = Received()
    with server.stream(stream_of(*subs, heartbeat="event"), Last_Event_ID=first.id) as stream:
        while any(len(received.events[sub]) < len(events) for sub, events in wanted.items()):
            received.take(stream.next())
        while not received.boards[subs[3]].events:
            received.take(stream.next())
    assert not received.resets
    assert {sub: received.events[sub] for sub in wanted} == wanted


def test_filters_of_patterns_are_few(stack, topic):
    stack.start_web()
    with ExitStack() as streams:
        for n in range(20):
            stream = streams.enter_context(stack.stream(stream_of(f"events/{topic}.*?where=n>{n}")))
            stream.read()
        with stack.stream(stream_of(f"events/{topic}.*?where=n>20")) as refused:
            assert b"too many different filters" in refused.rest()
        for sub in (f"events/{topic}.*?where=n>19", f"events/{topic}.*?key=a", f"events/{topic}?where=n>20"):
            assert streams.enter_context(stack.stream(stream_of(sub))).read().endswith(b": pushsvc\n")


def test_no_event_is_lost_or_repeated_when_the_server_is_killed(own_server, topic):
    job = f"job.{topic}"
    subs = [f"events/{topic}", f"events/{topic}?key=k1", f"events/{topic}.>", f"latest/{job}"]
    received, cursor = Received(), None
    for number in range(4):
        with own_server.stream(stream_of(*subs), **({"Last_Event_ID": cursor} if cursor else {})) as stream:
            stream.read()
            for n in range(10):
                own_server.post(topic, {"key": f"k{n % 3}", "n": n})
                own_server.post(f"{topic}.{n % 4}", [{"n": n}] * 3)
                own_server.post(job, {"key": f"k{number}.{n}"})
            for _ in range(15):
                message = stream.next()
                cursor = message.id or cursor
                received.take(message)
        own_server.restart_web()
    with own_server.stream(stream_of(*subs), Last_Event_ID=cursor) as stream:
        while len(received.events[subs[2]]) < 120 or len(received.events[subs[0]]) < 40:
            received.take(stream.next())
        while len(received.events[subs[1]]) < 12 or len(received.boards[subs[3]].events) < 40:
            received.take(stream.next())
    assert not received.resets
    assert received.events[subs[0]] == history(own_server, subs[0])
    assert received.events[subs[1]] == history(own_server, subs[1])
    for n in range(4):
        wanted = history(own_server, f"events/{topic}.{n}")
        assert [event for event in received.events[subs[2]] if event["$topic"] == f"{topic}.{n}"] == wanted


def test_subscriptions_take_room_in_the_memory_budget_until_their_stream_is_closed(stack, topic):
    stack.configure("[limits]\nmemory = 1_000_000\n")
    stack.start_web()
    subs = [f"events/{topic}?key={n}" for n in range(32)]
    with ExitStack() as streams:
        opened = [streams.enter_context(stack.stream(stream_of(*subs))) for _ in range(5)]
        for stream in opened:
            assert stream.read().endswith(b": pushsvc\n")
        with stack.stream(stream_of(*subs)) as refused:
            assert b": The server holds too much for its clients" in refused.rest()
        with stack.stream(stream_of(subs[0])) as small:
            assert small.read().endswith(b": pushsvc\n")
        opened[0].close()
        until(lambda: stack.metric("pushsvc_streams") == 4)
        assert streams.enter_context(stack.stream(stream_of(*subs))).read().endswith(b": pushsvc\n")


def test_streams_of_subscriptions_are_counted_once(own_server, topic):
    with ExitStack() as streams:
        for _ in range(3):
            stream = streams.enter_context(own_server.stream(stream_of(f"events/{topic}", f"events/{topic}?key=a")))
            stream.read()
        assert own_server.metric("pushsvc_streams") == 3
