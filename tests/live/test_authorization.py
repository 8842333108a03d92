"""Every route of a running server with every kind of credentials: the status, and that nothing leaks."""

from __future__ import annotations

import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

import jwt
import pytest

from pushsvc.auth.api_keys import PREFIX, hash_of
from pushsvc.cursor import decode
from support.stack import Answer, Stack
from support.waiting import until

SECRET = "a secret of more than thirty-two bytes"
API_KEY = PREFIX + "producer-0123456789"
SETTINGS = f"""
jwt_key = "{SECRET}"
jwt_leeway = 0
token_parameter = true

[keys.producer]
hash = "{hash_of(API_KEY)}"
publish = ["orders"]

[topics.orders]
latest = true

[[alerts]]
name = "watched"
topic = "vault"
when = "count(5m) > 0"
by = "key"

[topics.grouped]
key = ["key", "country"]
"""
MINE = {"key": "u42", "mine": 1}
THEIRS = {"key": "u43", "theirs": 2, "country": "zz"}
ALERT = {"topic": "vault", "when": "count(5m) > 9"}
HIDDEN = {"key": "v77", "gold": 3}
EVERYTHING = {"publish": [">"], "subscribe": [">"], "manage": [">"]}


def token(claims: dict[str, Any], secret: str = SECRET, seconds: float = 600) -> str:
    return jwt.encode({"exp": time.time() + seconds, "sub": "u42", "pushsvc": claims}, secret, "HS256")


KINDS: dict[str, Callable[[], str | None]] = {
    "none": lambda: None,
    "wrong key": lambda: token(EVERYTHING, "another secret of thirty-two bytes"),
    "expired": lambda: token(EVERYTHING, seconds=-60),
    "another topic": lambda: token({name: ["other"] for name in EVERYTHING}),
    "limited": lambda: token({name: [{"topics": "orders", "keys": ["u42"]}] for name in EVERYTHING}),
    "right": lambda: token({"publish": ["orders"], "subscribe": ["orders"]}),
    "manage": lambda: token({"manage": [">"]}),
    "everything": lambda: token(EVERYTHING),
}
ALL_TEXTS = ("u42", "mine", "u43", "theirs", "v77", "gold", "vault")
SECRETS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(KINDS, ALL_TEXTS),
    "limited": ("u43", "theirs", "v77", "gold", "vault", "__other__", "partial", '"full"'),
    "right": ("v77", "gold", "vault"),
    "manage": ALL_TEXTS[:-1],  # the definition of an alert names its topic
    "everything": (),
}
"""What no answer to a kind of credentials may contain."""

STATUSES: dict[tuple[str, str], tuple[int, ...]] = {
    # none, wrong key, expired, another topic, limited, right, manage, everything
    ("POST", "/v1/topics/orders/events"): (401, 401, 401, 403, 202, 202, 403, 202),
    ("GET", "/v1/topics/orders/events"): (401, 401, 401, 403, 200, 200, 403, 200),
    ("GET", "/v1/topics/orders/events?order=desc&limit=2"): (401, 401, 401, 403, 200, 200, 403, 200),
    ("GET", "/v1/topics/orders/events?last=2"): (401, 401, 401, 403, 200, 200, 403, 200),
    ("GET", "/v1/topics/orders/events.csv"): (401, 401, 401, 403, 200, 200, 403, 200),
    ("GET", "/v1/topics/orders/events.ndjson?key=u43"): (401, 401, 401, 403, 200, 200, 403, 200),
    ("GET", "/v1/topics/orders/events.json?where=theirs%3D2"): (401, 401, 401, 403, 200, 200, 403, 200),
    ("GET", "/v1/topics/orders/events?format=sse&last_event_id=earliest"): (401, 401, 401, 403, 200, 200, 403, 200),
    ("GET", "/v1/topics/orders/events?format=sse&key=u43&type=message"): (401, 401, 401, 403, 200, 200, 403, 200),
    ("GET", "/v1/topics/orders/stats"): (401, 401, 401, 403, 200, 200, 403, 200),
    ("GET", "/v1/topics/orders/stats?key=&key=u43&key=__other__"): (401, 401, 401, 403, 200, 200, 403, 200),
    ("GET", "/v1/topics/orders/stats.csv?window=*&top=5"): (401, 401, 401, 403, 200, 200, 403, 200),
    ("GET", "/v1/topics/orders/stats?format=sse"): (401, 401, 401, 403, 200, 200, 403, 200),
    ("GET", "/v1/topics/orders/stats?format=sse&key=&key=u43&top=5"): (401, 401, 401, 403, 200, 200, 403, 200),
    ("GET", "/v1/topics/orders/stats/series"): (401, 401, 401, 403, 403, 200, 403, 200),
    ("GET", "/v1/topics/orders/stats/series?key=u42"): (401, 401, 401, 403, 200, 200, 403, 200),
    ("GET", "/v1/topics/orders/stats/series.csv?key=u43"): (401, 401, 401, 403, 403, 200, 403, 200),
    ("GET", "/v1/topics/orders/events?corrections=all"): (401, 401, 401, 403, 403, 403, 403, 200),
    ("GET", "/v1/topics/orders/events/$1"): (401, 401, 401, 403, 200, 200, 403, 200),
    ("GET", "/v1/topics/orders/events/$2"): (401, 401, 401, 403, 404, 200, 403, 200),
    ("PATCH", "/v1/topics/orders/events/$1"): (401, 401, 401, 403, 415, 415, 403, 415),
    ("DELETE", "/v1/topics/orders/events/$2?x"): (401, 401, 401, 403, 400, 400, 403, 400),
    ("DELETE", "/v1/topics/orders/events/unknown?erase=true"): (401, 401, 401, 403, 403, 403, 403, 404),
    ("DELETE", "/v1/topics/vault/events/unknown"): (401, 401, 401, 403, 403, 403, 403, 404),
    ("GET", "/v1/topics/orders/latest"): (401, 401, 401, 403, 200, 200, 403, 200),
    ("GET", "/v1/topics/orders/latest?key=u43"): (401, 401, 401, 403, 200, 200, 403, 200),
    ("GET", "/v1/topics/orders/latest.csv?key=u42&key=u43"): (401, 401, 401, 403, 200, 200, 403, 200),
    ("GET", "/v1/topics/orders/latest?format=sse"): (401, 401, 401, 403, 200, 200, 403, 200),
    ("GET", "/v1/topics/orders/latest?format=sse&key=u43&last_event_id=x"): (401, 401, 401, 403, 200, 200, 403, 200),
    ("GET", "/v1/topics/orders"): (401, 401, 401, 403, 200, 200, 403, 200),
    ("GET", "/v1/topics"): (401, 401, 401, 200, 200, 200, 403, 200),
    ("GET", "/v1/topics.json?search=v"): (401, 401, 401, 200, 200, 200, 403, 200),
    ("GET", "/v1/topics?limit=5"): (401, 401, 401, 200, 200, 200, 403, 200),
    ("GET", "/v1/topics?format=sse"): (401, 401, 401, 200, 200, 200, 403, 200),
    ("GET", "/v1/topics?format=sse&changes=1"): (401, 401, 401, 200, 200, 200, 403, 200),
    ("GET", "/v1/stream?events=orders"): (401, 401, 401, 403, 200, 200, 403, 200),
    ("GET", "/v1/stream?stats=orders"): (401, 401, 401, 403, 200, 200, 403, 200),
    ("GET", "/v1/stream?events=orders&events=vault"): (401, 401, 401, 403, 403, 403, 403, 200),
    ("GET", "/v1/stream?events=%3E&stats=%3E"): (401, 401, 401, 200, 200, 200, 403, 200),
    ("GET", "/v1/stream?events=vault.*"): (401, 401, 401, 403, 403, 403, 403, 200),
    ("GET", "/v1/stream?sub=events/orders&sub=latest/orders"): (401, 401, 401, 403, 200, 200, 403, 200),
    ("GET", "/v1/stream?sub=stats/orders&sub=events/orders%3Fkey=u43"): (401, 401, 401, 403, 200, 200, 403, 200),
    ("GET", "/v1/stream?sub=events/%3E&sub=stats/%3E"): (401, 401, 401, 200, 200, 200, 403, 200),
    ("GET", "/v1/stream?sub=events/orders&sub=events/vault"): (401, 401, 401, 403, 403, 403, 403, 200),
    ("GET", "/v1/stream?sub=latest/vault"): (401, 401, 401, 403, 403, 403, 403, 404),  # it keeps none
    ("GET", "/v1/stream?sub=stats/vault.*"): (401, 401, 401, 403, 403, 403, 403, 200),
    ("HEAD", "/v1/topics/orders/events"): (401, 401, 401, 403, 200, 200, 403, 200),
    ("OPTIONS", "/v1/topics/orders"): (401, 401, 401, 403, 200, 200, 403, 200),
    ("PUT", "/v1/topics/orders/events"): (405,) * 8,
    ("GET", "/v1/nothing"): (404,) * 8,
    ("GET", "/metrics"): (401, 401, 401, 403, 403, 403, 200, 200),
    ("DELETE", "/v1/topics/gone"): (401, 401, 401, 403, 403, 403, 204, 204),
    ("DELETE", "/v1/sessions?sub=nobody"): (401, 401, 401, 403, 403, 403, 200, 200),
    ("GET", "/v1/alerts"): (401, 401, 401, 200, 200, 200, 200, 200),
    ("GET", "/v1/alerts/none"): (401, 401, 401, 404, 404, 404, 404, 404),
    ("GET", "/v1/alerts/watched"): (401, 401, 401, 404, 404, 404, 200, 200),
    ("PUT", "/v1/alerts/vault"): (401, 401, 401, 403, 403, 403, 201, 200),
    ("DELETE", "/v1/alerts/none"): (401, 401, 401, 404, 404, 403, 404, 404),
    ("GET", "/v1/components"): (401, 401, 401, 200, 200, 403, 200, 200),
    ("GET", "/v1/components?topic=orders"): (401, 401, 401, 403, 403, 403, 200, 200),
    ("GET", "/v1/components?topic=vault"): (401, 401, 401, 403, 403, 403, 200, 200),
    ("GET", "/session"): (200,) * 8,
    ("GET", "/livez"): (200,) * 8,
    ("GET", "/readyz"): (200,) * 8,
    ("GET", "/"): (200,) * 8,
    ("GET", "/docs"): (200,) * 8,
    ("GET", "/openapi.json"): (200,) * 8,
    ("GET", "/client.js"): (200,) * 8,
    ("GET", "/static/page.js"): (200,) * 8,
}


@pytest.fixture(scope="module")
def guarded(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A server that asks for credentials, with the topics orders, grouped and vault."""
    with Stack(redis_url, f"test-{os.getpid()}-guarded:", tmp_path_factory.mktemp("guarded")) as stack:
        stack.configure(SETTINGS)
        stack.start_aggregator()
        stack.start_web()
        for topic, events in (("vault", [HIDDEN]), ("orders", [MINE, THEIRS, MINE]), ("grouped", [MINE, THEIRS])):
            assert ask(stack, "POST", f"/v1/topics/{topic}/events", "everything", events).status == 202
            counted = f"/v1/topics/{topic}/stats?at_least={len(events)}"
            until(lambda path=counted: ask(stack, "GET", path, "everything").status == 200)
        yield stack


def ask(stack: Stack, method: str, path: str, kind: str | None, events: Any = None, **headers: str) -> Answer:
    credentials = KINDS[kind]() if kind in KINDS else kind
    headers |= {} if credentials is None else {"Authorization": f"Bearer {credentials}"}
    if is_stream(path):
        headers.setdefault("Accept", "text/event-stream")
        with stack.stream(path, **headers) as stream:
            read = stream.read() if stream.status == 200 else stream.response.read()
            return Answer(stream.status, dict(stream.response.getheaders()), read)
    import json

    sent = {"POST": events or MINE, "PUT": ALERT}.get(method)
    headers |= {"Content-Type": "application/json"} if sent else {}
    body = json.dumps(sent).encode() if sent else None
    return stack.request(method, path, body, **headers)


def is_stream(path: str) -> bool:
    return "format=sse" in path or path.startswith("/v1/stream")


def test_a_key_limit_selects_the_newest_events_and_hides_what_others_do(guarded: Stack) -> None:
    path = "/v1/topics/orders/latest"
    answer = ask(guarded, "GET", path, "limited")
    assert [event["key"] for event in answer.json()["events"]] == ["u42"]
    assert "evicted" not in answer.json()
    tag = answer.headers["ETag"]
    with guarded.stream(path, Authorization=f"Bearer {KINDS['limited']()}") as stream:
        name, data = stream.frame()
        assert (name, data) == ("snapshot", answer.json())
        assert ask(guarded, "POST", "/v1/topics/orders/events", "everything", [THEIRS]).status == 202
        assert ask(guarded, "GET", path, "limited", If_None_Match=tag).status == 304
        assert ask(guarded, "POST", "/v1/topics/orders/events", "everything", [THEIRS, MINE]).status == 202
        name, data = stream.frame()
        assert (name, [event["key"] for event in data["events"]]) == ("update", ["u42"])


@pytest.mark.parametrize("route", STATUSES, ids=" ".join)
def test_the_status_and_the_bytes_of_every_route(guarded: Stack, route: tuple[str, str]) -> None:
    found = []
    for kind in KINDS:
        answer = ask(guarded, *route, kind)
        found.append(answer.status)
        if answer.status in (401, 403):
            assert answer.headers["Content-Type"] == "application/problem+json"
        if answer.status == 401:
            assert answer.headers["WWW-Authenticate"].startswith("Bearer ")
        if "/openapi.json" not in route:  # it describes everything, and is the same for everybody
            shown = answer.body.decode() + str(answer.headers)
            asked = re.split(r"\W", route[1])
            assert [text for text in SECRETS[kind] if text in shown and text not in asked] == [], kind
            assert "eyJ" not in shown
            assert SECRET not in shown
    assert tuple(found) == STATUSES[route]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/topics/{}", "/v1/topics/{}/events", "/v1/topics/{}/events?limit=x", "/v1/topics/{}/stats",
        "/v1/topics/{}/stats?window=none", "/v1/topics/{}/events?format=sse", "/v1/stream?events={}",
        "/v1/stream?stats={}&window=none", "/v1/stream?events={}.*", "/v1/topics?search={}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["none", "another topic", "limited", "right"])
def test_topics_that_are_not_granted_answer_as_if_there_were_none(guarded: Stack, path: str, kind: str) -> None:
    hidden, absent = (ask(guarded, "GET", path.format(name), kind) for name in ("vault", "nowhere"))
    assert hidden.status == absent.status
    bodies = [re.sub(rb'"request_id":"\w+"', b"", answer.body) for answer in (hidden, absent)]
    assert bodies[0].replace(b"vault", b"nowhere") == bodies[1]
    assert hidden.headers.keys() == absent.headers.keys()


def test_what_a_limited_reader_sees_of_statistics(guarded: Stack) -> None:
    answer = ask(guarded, "GET", "/v1/topics/orders/stats", "limited")
    frame = answer.json()
    assert {row[0] for row in frame["data"]} == {"u42"}
    assert {row[1] for row in frame["data"]} == {None, "mine"}
    whole = ask(guarded, "GET", "/v1/topics/orders/stats", "everything")
    assert {row[0] for row in whole.json()["data"]} == {None, "u42", "u43"}
    assert "private" in answer.headers["Cache-Control"]
    assert "Authorization" in answer.headers["Vary"]
    again = ask(guarded, "GET", "/v1/topics/orders/stats", "limited", If_None_Match=whole.headers["ETag"])
    assert again.status == 200
    for query in ("?key=u43", "?key=", "?key=__other__"):
        assert ask(guarded, "GET", f"/v1/topics/orders/stats{query}", "limited").json()["data"] == []


@pytest.mark.parametrize("path", ["/v1/topics/orders/events?", "/v1/stream?events=orders&", "/v1/stream?events=%3E&"])
def test_a_limited_stream_has_the_events_of_its_keys_alone(guarded: Stack, path: str) -> None:
    """From the start of the log, live, and after a cursor that an unlimited stream has had."""
    limited, whole = ({"Authorization": f"Bearer {KINDS[kind]()}"} for kind in ("limited", "everything"))

    def history(kind: str) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = ask(guarded, "GET", "/v1/topics/orders/events?limit=10000", kind).json()[
            "events"
        ]
        return events

    def publish() -> None:
        answer = ask(guarded, "POST", "/v1/topics/orders/events", "everything", [THEIRS, MINE, THEIRS, MINE])
        assert answer.status == 202

    with (
        guarded.stream(path + "last_event_id=earliest", **limited) as stream,
        guarded.stream("/v1/topics/orders/events?key=u43", **limited) as theirs,
        guarded.stream(path, **whole) as everything,
    ):
        theirs.read()
        everything.read()
        publish()
        mine = history("limited")
        assert {event["key"] for event in mine} == {"u42"}
        assert [stream.frame()[1] for _ in mine] == mine
        cursor = everything.next().id
        with guarded.stream(path, Last_Event_ID=cursor, **limited) as resumed:
            assert [resumed.frame()[1] for _ in range(2)] == mine[-2:]
            publish()
            assert [resumed.frame()[1] for _ in range(2)] == history("limited")[-2:]
            assert not any(text in resumed.raw.decode() for text in SECRETS["limited"])
        assert [stream.frame()[1] for _ in range(2)] == history("limited")[-2:]
        assert not any(text in stream.raw.decode() for text in SECRETS["limited"])
        assert b"data" not in theirs.raw


def test_a_limited_stream_moves_on_past_what_it_may_not_see(stack: Stack) -> None:
    """Else a client that resumes would read all of it again, and lose its place once that is trimmed."""
    stack.configure(SETTINGS)
    stack.start_web("--heartbeat", "1")
    limited, whole = ({"Authorization": f"Bearer {KINDS[kind]()}"} for kind in ("limited", "everything"))
    path = "/v1/stream?events=orders&events=%3E"
    with stack.stream(path, **limited) as stream, stack.stream(path, **whole) as everything:
        for each in (stream, everything):
            each.read()
        assert ask(stack, "POST", "/v1/topics/orders/events", "everything", [THEIRS]).status == 202
        (passed,) = decode(everything.next().id).values()
        heartbeat = until(lambda: (message := stream.next()).id and message)
        while passed not in decode(heartbeat.id).values():
            heartbeat = stream.next()
        assert heartbeat.event == "heartbeat"
    with stack.stream(path, Last_Event_ID=heartbeat.id, **limited) as resumed:
        assert ask(stack, "POST", "/v1/topics/orders/events", "everything", [MINE]).status == 202
        assert resumed.until(lambda _, data: "$topic" in data)["key"] == "u42"
        assert b"reset" not in resumed.raw


def test_limited_subscriptions_have_the_events_and_rows_of_their_keys_alone(guarded: Stack) -> None:
    limited = {"Authorization": f"Bearer {KINDS['limited']()}"}
    events = ("events/orders", "events/>", "events/*?where=theirs>0", "events/orders?key=u43")
    others = ("stats/orders", "stats/>?window=*", "latest/orders", "stats/orders?key=u43", "latest/orders?key=u43")
    path = "/v1/stream?" + urlencode([("sub", sub) for sub in events + others])
    found: dict[str, list[Any]] = defaultdict(list)
    with guarded.stream(path, **limited) as stream:
        stream.read()
        for event in (THEIRS, MINE, THEIRS, MINE):
            assert ask(guarded, "POST", "/v1/topics/orders/events", "everything", [event]).status == 202

        def take() -> bool:
            data = stream.frame()[1]
            found[str(data.get("$sub") or data.get("sub"))].append(data)
            return len(found["events/orders"]) == len(found["events/>"]) == 2 and len(found["latest/orders"]) > 1

        until(take)
        assert {event["key"] for sub in events for event in found[sub]} == {"u42"}
        assert not found["events/*?where=theirs>0"] + found["events/orders?key=u43"]
        assert {
            row[0] for sub in ("stats/orders", "stats/>?window=*") for data in found[sub] for row in data["data"]
        } == {"u42"}
        assert [data["data"] for data in found["stats/orders?key=u43"]] == [[]]
        assert [data["events"] for data in found["latest/orders?key=u43"]] == [[]]
        shown = stream.raw.decode().replace("key=u43", "").replace("theirs>0", "")
        assert not any(text in shown for text in SECRETS["limited"])
    grouped = token({"subscribe": [{"topics": "grouped", "keys": ["u42"]}]})
    refused = ask(guarded, "GET", "/v1/stream?sub=events/grouped&sub=stats/grouped", grouped)
    assert (refused.status, refused.json()["detail"][:8]) == (403, "sub[1]: ")


@pytest.mark.parametrize(
    "path", ["/v1/topics/orders/stats?window=*", "/v1/stream?stats=orders&window=*", "/v1/stream?stats=%3E&window=*"]
)
def test_a_limited_stream_has_the_rows_of_its_keys_alone(guarded: Stack, path: str) -> None:
    limited, whole = ({"Authorization": f"Bearer {KINDS[kind]()}"} for kind in ("limited", "everything"))
    with guarded.stream(path, **whole) as stream:
        cursor = until(lambda: stream.next().id)
    assert ask(guarded, "POST", "/v1/topics/orders/events", "everything", [THEIRS, MINE]).status == 202
    with guarded.stream(path, **limited) as new, guarded.stream(path, Last_Event_ID=cursor, **limited) as resumed:
        for stream in (new, resumed):
            frames = [stream.frame() for _ in range(3)]
            assert {event for event, _ in frames} == {"snapshot"}  # the cursor is that of another selection
            assert {row[0] for _, frame in frames for row in frame["data"]} == {"u42"}
        assert ask(guarded, "POST", "/v1/topics/orders/events", "everything", [THEIRS]).status == 202
        assert ask(guarded, "POST", "/v1/topics/orders/events", "everything", [MINE]).status == 202
        update = new.until(lambda event, frame: event == "update" and frame["data"])
        assert {row[0] for row in update["data"]} == {"u42"}
        assert not any(text in new.raw.decode() for text in SECRETS["limited"])


def test_statistics_that_are_not_grouped_by_key_are_not_served_to_a_limited_reader(guarded: Stack) -> None:
    limited = token({"subscribe": [{"topics": "grouped", "keys": ["u42"]}]})
    assert ask(guarded, "GET", "/v1/topics/grouped/stats", limited).status == 403
    assert ask(guarded, "GET", "/v1/topics/grouped/stats?format=sse", limited).status == 403
    assert ask(guarded, "GET", "/v1/stream?stats=grouped", limited).status == 403
    assert set(ask(guarded, "GET", "/v1/topics/grouped", limited).json()["rates"].values()) == {None}


def test_what_a_limited_reader_sees_of_a_topic(guarded: Stack) -> None:
    found = ask(guarded, "GET", "/v1/topics/orders", "limited").json()
    whole = ask(guarded, "GET", "/v1/topics/orders", "everything").json()
    hidden = {name for name, value in found.items() if value != whole[name]}
    assert hidden == {"bytes", "last_arrival", "late", "refused", "rates"}
    assert 0 < found["rates"]["1m"] < whole["rates"]["1m"]
    [listed] = ask(guarded, "GET", "/v1/topics?limit=5", "limited").json()["topics"]
    assert listed.items() <= found.items()


def test_a_limited_producer_writes_its_keys_alone(guarded: Stack) -> None:
    def end() -> int:
        offset: int = ask(guarded, "GET", "/v1/topics/orders", "everything").json()["last_offset"]
        return offset

    before = end()
    for other in (THEIRS, {"mine": 1}, {"key": "u42 ", "mine": 1}):
        refused = ask(guarded, "POST", "/v1/topics/orders/events?on_error=skip", "limited", [MINE, other])
        assert (refused.status, "line 2" in refused.json()["detail"]) == (403, True)
    assert end() == before
    assert ask(guarded, "POST", "/v1/topics/orders/events", "limited", [MINE]).status == 202
    assert end() == before + 1


def test_an_api_key_publishes_to_its_topic_alone(guarded: Stack) -> None:
    assert ask(guarded, "POST", "/v1/topics/orders/events", API_KEY).status == 202
    assert ask(guarded, "POST", "/v1/topics/vault/events", API_KEY).status == 403
    assert ask(guarded, "GET", "/v1/topics/orders/events", API_KEY).status == 403
    assert ask(guarded, "POST", "/v1/topics/orders/events", API_KEY + "x").status == 401


def test_the_events_of_a_pattern_are_those_of_granted_topics(guarded: Stack) -> None:
    readers = [
        guarded.stream("/v1/stream?events=%3E", Authorization=f"Bearer {KINDS[kind]()}")
        for kind in ("everything", "right")
    ]
    with readers[0] as whole, readers[1] as part:
        assert ask(guarded, "POST", "/v1/topics/vault/events", "everything", [HIDDEN]).status == 202
        whole.until(lambda _, data: data.get("$topic") == "vault")
        assert ask(guarded, "POST", "/v1/topics/orders/events", "everything", [THEIRS]).status == 202
        part.until(lambda _, data: data.get("$topic") == "orders")
        assert b"vault" not in part.raw


def test_a_token_in_the_url_is_in_no_link(guarded: Stack) -> None:
    for kind, keys in (("right", ["u42"]), ("limited", ["u42"])):
        path = f"/v1/topics/orders/events?limit=1&token={KINDS[kind]()}"
        answer = guarded.get(path, Accept="application/json")
        assert [event["key"] for event in answer.json()["events"]] == keys
        assert "token" not in answer.headers["Link"]


def test_neither_a_key_nor_a_token_is_in_the_log(guarded: Stack) -> None:
    for path in ("/v1/topics/orders?token=eyJmine", "/v1/topics/vault/events"):
        assert ask(guarded, "GET", path, None).status == 401
        assert ask(guarded, "GET", path, "right").status in (200, 403)
    until(lambda: "status=403" in guarded.output("web"))
    assert not any(secret in guarded.output("web") for secret in (SECRET, API_KEY, "eyJ"))


def test_dead_events_are_for_those_alone_who_manage_their_topic(guarded: Stack) -> None:
    named = [">", "orders.dead"]
    reader = token({"publish": named, "subscribe": named, "manage": ["vault", "orders.*"]})
    manager = token({"manage": ["orders"]})
    for path in ("/v1/topics/orders.dead/events", "/v1/topics/orders.dead", "/v1/topics/orders.dead/stats"):
        assert ask(guarded, "GET", path, reader).status == 403
    assert ask(guarded, "GET", "/v1/stream?events=orders.dead", reader).status == 403
    for _ in range(3):  # repeated posts take another way
        assert ask(guarded, "POST", "/v1/topics/orders.dead/events", reader, [HIDDEN]).status == 403
        assert ask(guarded, "POST", "/v1/topics/orders.dead/events", manager, [HIDDEN]).status == 202
    assert ask(guarded, "DELETE", "/v1/topics/orders.dead", reader).status == 403
    assert ask(guarded, "GET", "/v1/topics/orders.dead/events", manager).json()["events"][0]["gold"] == 3


def test_no_pattern_covers_dead_events(guarded: Stack) -> None:
    header = {"Authorization": f"Bearer {KINDS['everything']()}"}
    with guarded.stream("/v1/stream?events=%3E", **header) as every, guarded.stream(
        "/v1/stream?events=orders.dead&events=orders", **header
    ) as named:  # fmt: skip
        assert ask(guarded, "POST", "/v1/topics/orders.dead/events", "everything", [HIDDEN]).status == 202
        assert ask(guarded, "POST", "/v1/topics/orders/events", "everything", [MINE]).status == 202
        every.until(lambda _, data: data.get("$topic") == "orders")
        named.until(lambda _, data: data.get("$topic") == "orders.dead")
        named.until(lambda _, data: data.get("$topic") == "orders")
        assert b"orders.dead" not in every.raw


def test_a_publisher_asks_for_replies_only_where_it_may_read(guarded: Stack) -> None:
    mine = token({"publish": ["orders"], "subscribe": ["support.user.u1"]})

    def post(body: str, kind: str = "application/x-ndjson") -> int:
        headers = {"Authorization": f"Bearer {mine}", "Content-Type": kind}
        return guarded.request("POST", "/v1/topics/orders/events", body.encode(), **headers).status

    for _ in range(3):
        assert post('{"n": 1, "reply_to": "support.user.u1"}') == 202
        assert post('{"n": 1, "reply_to": "support.user.u1"}', "application/json") == 202
        assert post('{"n": 1, "reply_to": "somebody@example.com"}') == 202
        assert post('{"n": 1}\n{"n": 1, "reply_to": "support.user.u2"}') == 403
        assert post('{"n": 1, "reply_to": "support.user.u2"}', "application/json") == 403
        assert post('{"n": 1, "repl\\u0079\\u005Fto": "support.user.u2"}') == 403
        assert post('{"n": 1, "reply_to": "vault.dead"}') == 403
        assert post("reply_to\nsupport.user.u2\n", "text/csv") == 403
