"""Values of an index and keys of newest events that are meant to confuse Redis, its scripts, or a reader's state."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
from werkzeug.test import Client

from pushsvc.broker.broker import Broker
from pushsvc.event import Batch, Event
from pushsvc.settings import TopicRules, TopicSettings
from pushsvc.web.app import create_app

SETTINGS = TopicSettings(windows=(), index=("user", "key", "type"), latest=True)
TEXTS = [
    "", " ", "*", "?", "[a-z]", "\\", "a*", "{t}", "{", "}:index", "$webhooks", "$", "+", "-", "(", "[", "(1", "+inf",
    "user", "key\0u1", "\0", "u1\0", "a\nb", "a\r\nb", "\x1e", "\x1b[2J", "\u2028", "\u202e", "\ufeff", "\U0001f355",
    "é", "e\u0301", "__proto__", "constructor", "__other__", "null", "true", "1", "1.0", "1e0", "-0", "' or 1=1 --",
    "redis.call('FLUSHALL')", "%s%n", "a,b", '"', "'", "=1+1", "u" * 199, "u" * 200, "\U0001f355" * 200, "u" * 201,
]  # fmt: skip
VALUES: list[Any] = [*TEXTS, 1, 1.0, -0.0, 1e300, True, False, None, 10**18, ["u1"], {"user": "u1"}]
CONTROL = [text for text in TEXTS if any(character < " " for character in text)]
KEYS = [text for text in TEXTS if 0 < len(text) <= 200 and text != "__other__" and text not in CONTROL]


@pytest.fixture
def client(broker: Broker) -> Client:
    return create_app(broker, rules=TopicRules([("t.>", SETTINGS)])).test_client()


def found(client: Client, topic: str, query: str) -> list[dict[str, Any]]:
    answer = client.get(f"/v1/topics/{topic}/events?limit=1000&{query}")
    assert answer.status_code == 200, (query, answer.text)
    events: list[dict[str, Any]] = answer.json["events"]
    return events


def text_of(value: Any) -> str | None:
    """Return how a value is asked for: text as it is, numbers and booleans as JSON."""
    return value if isinstance(value, str) else json.dumps(value) if isinstance(value, int | float) else None


def test_values_of_an_index_find_their_events_and_no_others(client: Client) -> None:
    for start in range(0, 3 * len(VALUES), 50):
        body = [{"user": VALUES[n % len(VALUES)], "n": n} for n in range(start, min(start + 50, 3 * len(VALUES)))]
        assert client.post("/v1/topics/t.1/events", json=body).status_code == 202
    for text in TEXTS:
        wanted = [n for n in range(3 * len(VALUES)) if text_of(VALUES[n % len(VALUES)]) == text]
        assert [one["n"] for one in found(client, "t.1", f"user={quote(text, safe='')}")] == wanted, text


def test_keys_find_their_events_and_their_newest_one(client: Client) -> None:
    for turn in range(2):
        body = [{"key": key, "n": turn, "type": "message"} for key in KEYS]
        assert client.post("/v1/topics/t.2/events", json=body).status_code == 202
    for key in KEYS:
        name = quote(key, safe="")
        assert [(one["key"], one["n"]) for one in found(client, "t.2", f"key={name}")] == [(key, 0), (key, 1)]
        (newest,) = client.get(f"/v1/topics/t.2/latest?key={name}").json["events"]
        assert (newest["key"], newest["n"]) == (key, 1)
    for key in ("", "__other__", "u" * 201, *CONTROL):
        refused = client.post("/v1/topics/t.2/events", json={"key": key})
        assert (refused.status_code, "key" in refused.text) == (400, True), key
    newest = client.get("/v1/topics/t.2/latest").json["events"]
    assert [one["key"] for one in newest] == KEYS
    assert (
        client.post("/v1/topics/t.2/events", json=[{"key": key, "type": "deleted"} for key in KEYS]).status_code == 202
    )
    assert client.get("/v1/topics/t.2/latest").json == {"topic": "t.2", "events": [], "evicted": 0}


def test_names_of_topics_do_not_reach_into_each_other(client: Client) -> None:
    """The keys of Redis are made of names, so one topic could be named as a part of another's."""
    topics = ["t.a", "t.a.index", "t.a.latest", "t.{a}", "t.a:index", "t.a-index"]
    stored = [
        topic for topic in topics
        if client.post(f"/v1/topics/{quote(topic)}/events", json={"user": topic, "key": "k"}).status_code == 202
    ]  # fmt: skip
    assert len(stored) >= 3
    for topic in stored:
        for other in stored:
            wanted = [topic] if other == topic else []
            assert [one["user"] for one in found(client, quote(topic), f"user={quote(other)}")] == wanted


def test_lone_surrogates_are_refused_or_found(client: Client) -> None:
    for body in (b'{"user":"\\ud800"}', b'{"key":"\\udfff"}', b'{"user":"\xed\xa0\x80"}'):
        posted = client.post("/v1/topics/t.3/events", data=body, content_type="application/json")
        assert posted.status_code in (202, 400)
    assert client.get("/v1/topics/t.3/events?user=%ED%A0%80").status_code in (200, 400)
    assert client.get("/v1/topics/t.3/latest").status_code == 200


def test_ever_new_values_take_no_more_than_the_log_keeps(broker: Broker) -> None:
    """Members of the index are dropped in segments of 4,096 events, and newest events are at most ``max_keys``."""
    topic = "ever.new"
    settings = TopicSettings(windows=(), index=("user",), latest=True, max_keys=100, retention=500)
    most = 0
    for start in range(0, 30_000, 1_000):
        events = [Event(key=f"k{n}", data={"user": f"u{n}" * 20}) for n in range(start, start + 1_000)]
        broker.publish(topic, events, settings)
        most = max(most, broker.connections.command("ZCARD", broker.keys.index(topic)))
    assert most <= 2 * 4_096 + 1_000
    kept = broker.latest.read(topic, settings)
    assert (len(kept.events), kept.evicted) == (100, 29_900)


def test_a_large_request_is_indexed_in_slices(broker: Broker) -> None:
    """8 MB of events took the loop for 70 ms."""
    turns = 0

    def pause() -> None:
        nonlocal turns
        turns += 1

    events = Batch.from_events([Event(key=f"k{n}", data={"user": f"u{n}", "x": "x" * 700}) for n in range(10_000)])
    receipt = broker.publish("t.4", events, SETTINGS, pause=pause)
    assert receipt.accepted == 10_000
    assert turns >= 2 * len(events.data) // 32_000, "after each entry, for the index and for the newest events"


def test_the_newest_events_of_a_topic_are_read_in_small_pages(broker: Broker) -> None:
    """A page is parsed in one step, which for a megabyte of small events took 40 ms."""
    events = [Event(key=f"k{number}", data={"note": "x" * 500}) for number in range(2_000)]
    broker.publish("t.pages", events, SETTINGS)
    sizes: list[int] = []
    assert len(broker.latest.read("t.pages", SETTINGS, on_size=sizes.append).events) == 2_000
    steps = [after - before for before, after in zip([0, *sizes], sizes, strict=False)]
    assert len(steps) >= 4
    assert max(steps) <= 300_000
