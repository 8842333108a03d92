"""Corrections over HTTP, as clients see them: streams, history, look-ups, newest events, statistics and tokens."""

from __future__ import annotations

import csv
import io
import json
import random
import signal
import threading
import time
from typing import Any
from urllib.parse import quote

import jwt
import pytest

from pushsvc.client import Client, ClientError
from support.stack import Answer, Stack, Stream
from support.waiting import until

SECRET = "a secret of more than thirty-two bytes"
SHARDED = """parts = 2
key = ["key", "user"]
latest = true
index = ["user"]
clock = "event"
windows = ["1m", "15m"]
statistics = ["p50", "p95"]
"""
SETTINGS = f"""
[topics."orders.sharded0"]
{SHARDED}
[topics."orders.shardedreference0"]
{SHARDED}
[topics."orders.>"]
latest = true
index = ["user"]
clock = "event"
windows = ["1m", "15m", "last 20"]
values = ["user"]
statistics = ["p50", "p95", "distinct", "top3", "first", "last"]
"""
PATCH = "application/merge-patch+json"


@pytest.fixture
def shop(stack: Stack) -> Stack:
    stack.configure(SETTINGS)
    stack.start_aggregator()
    stack.start_web()
    return stack


def path(topic: str, name: Any) -> str:
    return f"/v1/topics/{topic}/events/" + (f"${name}" if isinstance(name, int) else quote(name))


def patch(stack: Stack, topic: str, name: Any, changes: Any, **headers: str) -> Answer:
    return stack.request("PATCH", path(topic, name), json.dumps(changes).encode(), Content_Type=PATCH, **headers)


def delete(stack: Stack, topic: str, name: Any, **headers: str) -> Answer:
    return stack.request("DELETE", path(topic, name), **headers)


def history(stack: Stack, topic: str, query: str = "", **headers: str) -> list[dict[str, Any]]:
    answer = stack.get(f"/v1/topics/{topic}/events?limit=10000{query}", Accept="application/json", **headers)
    assert answer.status == 200, answer
    events: list[dict[str, Any]] = answer.json()["events"]
    return events


class Model(threading.Thread):
    """A client that keeps what its stream tells, and comes back when the stream ends."""

    def __init__(self, stack: Stack, target: str, **headers: str) -> None:
        super().__init__(daemon=True)
        self.events: dict[int, dict[str, Any]] = {}
        self.names: list[str] = []
        self.ended = False
        self._stack, self._target, self._headers = stack, target, headers
        self._cursor = "earliest"
        self.start()

    def run(self) -> None:
        while not self.ended:
            try:
                stream = Stream(self._stack.port, self._target, {**self._headers, "Last-Event-ID": self._cursor})
                while not self.ended:
                    message = stream.next()
                    self.take(message.event, json.loads(message.data))
                    self._cursor = message.id or self._cursor
            except (AssertionError, OSError, ValueError):
                time.sleep(0.05)

    def take(self, name: str, data: dict[str, Any]) -> None:
        self.names.append(name)
        if name == "deleted":
            self.events.pop(data["$offset"], None)
        elif "$offset" in data:
            data.pop("$corrected", None)
            self.events[data["$offset"]] = data

    def is_at(self, expected: list[dict[str, Any]]) -> bool:
        return [self.events[offset] for offset in sorted(self.events)] == expected


def test_a_patch_changes_an_event_everywhere(shop: Stack) -> None:
    topic = "orders.one"
    shop.post(topic, [{"id": "a/1", "key": "k", "user": "u", "n": 1, "note": "x"}, {"key": "k", "user": "v", "n": 5}])
    with shop.stream(f"/v1/topics/{topic}/events") as stream:
        stream.read()
        answer = patch(shop, topic, "a/1", {"n": 2, "note": None, "inner": {"a": None, "b": 1}})
        assert answer.status == 200, answer
        event, mark = answer.json()["event"], answer.json()["correction"]
        assert (event["n"], event["inner"], event["id"], mark["offset"]) == (2, {"b": 1}, "a/1", 3)
        assert "note" not in event
        name, data = stream.frame()
        assert (name, data.pop("$corrected")) == ("corrected", mark)
        assert data == event
        assert history(shop, topic)[0] == event
        assert history(shop, topic, "&user=u") == [event]
        assert history(shop, topic, "&where=n>1&order=desc")[1] == event
        gone = delete(shop, topic, 2).json()
        name, data = stream.frame()
        assert (name, data.pop("$deleted"), data["$offset"]) == ("deleted", gone["correction"], gone["offset"])
        assert (gone["event"], gone["correction"]["offset"]) == (None, 4)
    assert shop.get(f"/v1/topics/{topic}/latest").json()["events"] == [event]
    assert history(shop, topic) == [event]
    rows = csv.DictReader(io.StringIO(shop.get(f"/v1/topics/{topic}/events.csv?limit=all").body.decode()))
    assert [row["n"] for row in rows] == ["2"]
    lines = shop.get(f"/v1/topics/{topic}/events.ndjson?limit=all").body.splitlines()
    assert [json.loads(line) for line in lines] == [event]
    until(lambda: [row[2:5] for row in shop.stats(topic)["data"] if row[:2] == [None, "n"]] == [[1, 1 / 60, 2.0]])
    series = shop.get(f"/v1/topics/{topic}/stats/series?field=n&stat=sum&window=1m")
    assert series.status == 200, series
    assert 6 not in series.json()["stats"]["sum"]


def test_the_life_of_an_event(shop: Stack) -> None:
    topic = "orders.life"
    shop.post(topic, [{"id": "x", "key": "k", "n": 1}])
    first = shop.get(path(topic, "x"))
    assert [step["step"] for step in first.json()["life"]] == ["stored", "counted"]
    patch(shop, topic, "x", {"n": 2})
    patch(shop, topic, 1, {"n": 3})
    delete(shop, topic, "x")
    answer = shop.get(path(topic, 1))
    assert answer.status == 200
    life = answer.json()
    assert life["event"] is None
    assert [(step["step"], step.get("offset")) for step in life["life"]] == [
        ("stored", 1), ("counted", None), ("corrected", 2), ("corrected", 3), ("deleted", 4),
    ]  # fmt: skip
    assert life["life"][1]["windows"] == ["1m", "15m", "last 20"]
    everything = history(shop, topic, "&corrections=all")
    assert [one["$offset"] for one in everything] == [1, 2, 3, 4]
    assert everything[0]["n"] == 1
    assert [(one["$corrects"], one["old"]["n"], one["new"] and one["new"]["n"]) for one in everything[1:]] == [
        (1, 1, 2), (1, 2, 3), (1, 3, None),
    ]  # fmt: skip
    assert history(shop, topic, "&corrections=all&order=desc") == everything[::-1]


def test_what_is_refused(shop: Stack) -> None:
    topic = "orders.refused"
    shop.post(topic, [{"id": "x", "key": "k", "n": 1}])
    status = lambda answer: (answer.status, answer.json()["type"].rpartition(":")[2])  # noqa: E731
    assert status(patch(shop, topic, "y", {"n": 1})) == (404, "no-event")
    assert status(patch(shop, topic, 99, {"n": 1})) == (404, "no-event")
    assert status(patch(shop, "orders.none", 1, {"n": 1})) == (404, "no-event")
    assert status(patch(shop, "a..b", 1, {"n": 1})) == (400, "invalid-topic")
    for changes in (
        {"id": "z"},
        {"id": None},
        {"$offset": 2},
        {"time": "x"},
        {"key": ""},
        {"n": 10**30},
        [1],
        "x",
        None,
    ):
        assert status(patch(shop, topic, "x", changes)) == (400, "invalid-events"), changes
    for body in (b"", b"{", b'{"n":1,"n":2}', b'{"n":NaN}', b"[" * 100_000, b'{"a":' * 1000 + b"1" + b"}" * 1000):
        answer = shop.request("PATCH", path(topic, "x"), body, Content_Type=PATCH)
        assert answer.status in (200, 400), (body[:20], answer)
    answer = shop.request("PATCH", path(topic, "x"), b'{"n":1}', Content_Type="application/json")
    assert status(answer) == (415, "unsupported-media-type")
    assert status(shop.request("DELETE", path(topic, "x") + "?force=1")) == (400, "invalid-parameter")
    assert status(patch(shop, "alerts", 1, {"n": 1})) == (403, "reserved-topic")
    tag = shop.get(path(topic, "x")).headers["ETag"]
    changed = patch(shop, topic, "x", {"n": 7}, If_Match=tag)
    assert changed.status == 200
    assert status(patch(shop, topic, "x", {"n": 8}, If_Match=tag)) == (412, "event-changed")
    assert status(delete(shop, topic, "x", If_Match=tag)) == (412, "event-changed")
    again = patch(shop, topic, "x", {"n": 7}, If_Match=changed.headers["ETag"])
    assert again.json()["correction"] == changed.json()["correction"]
    assert delete(shop, topic, "x", If_Match="*").status == 200
    assert status(delete(shop, topic, "x")) == (410, "event-gone")
    assert status(patch(shop, topic, "x", {"n": 7})) == (410, "event-gone")


def test_corrections_of_one_event_at_the_same_time_all_apply(shop: Stack) -> None:
    topic = "orders.race"
    shop.post(topic, [{"key": "k", "n": 0}])
    workers = [threading.Thread(target=patch, args=(shop, topic, 1, {f"f{number}": number})) for number in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    (event,) = history(shop, topic)
    assert {f"f{number}": number for number in range(8)}.items() <= event.items()


class Changes:
    """Random publishes, patches and deletes, with what survives of them."""

    def __init__(self, stack: Stack, topic: str, chance: random.Random) -> None:
        self.alive: dict[int, dict[str, Any]] = {}
        self.entries: list[list[int]] = []
        self._stack, self._topic, self._chance = stack, topic, chance

    def _event(self) -> dict[str, Any]:
        chance = self._chance
        return {
            "key": chance.choice("abc"), "user": chance.choice(("ada", "bob", "a longer name")),
            "time": 1_700_000_000_000 + chance.randrange(50_000),
            "n": chance.choice((chance.random() * 1e6, chance.randrange(9))),
        }  # fmt: skip

    def post(self) -> None:
        events = [self._event() for _ in range(self._chance.randrange(1, 6))]
        receipt = self._stack.post(self._topic, events).json()
        self.entries.append(list(range(receipt["first_offset"], receipt["last_offset"] + 1)))
        self.alive.update(zip(self.entries[-1], events, strict=True))

    def patch(self) -> None:
        if self.alive:
            at, changes = self._chance.choice(list(self.alive)), self._event()
            changes = {name: changes[name] for name in self._chance.sample(list(changes), 2)}
            self.alive[at] = self.alive[at] | changes
            assert patch(self._stack, self._topic, at, changes).status == 200

    def delete(self) -> None:
        if self.alive:
            at = self._chance.choice(list(self.alive))
            del self.alive[at]
            assert delete(self._stack, self._topic, at).status == 200

    def kill(self) -> None:
        if self._chance.random() < 0.1:
            if self._chance.random() < 0.5:
                self._stack.restart_web()
            else:
                self._stack.stop("aggregator", signal.SIGKILL)
                self._stack.start_aggregator()


@pytest.mark.parametrize(("kind", "seed"), [("", 0), ("", 1), ("sharded", 0)])
def test_everything_equals_a_computation_over_the_surviving_events(shop: Stack, kind: str, seed: int) -> None:
    """Random publishes, patches and deletes, while processes are killed and streams come back. A sharded topic has two
    parts."""
    topic, reference, chance = f"orders.{kind or 'random'}{seed}", f"orders.{kind}reference{seed}", random.Random(seed)
    base = f"/v1/topics/{topic}/events"
    models = {query: Model(shop, base + query) for query in ("", "?key=a", "?where=n>4&user=ada", "?key=b&where=n<=4")}
    changes = Changes(shop, topic, chance)
    for _ in range(150):
        chance.choice((changes.post, changes.post, changes.patch, changes.patch, changes.delete, changes.kill))()
    alive, entries = changes.alive, changes.entries
    expected = history(shop, topic)
    assert {one["$offset"]: one["n"] for one in expected} == {at: one["n"] for at, one in alive.items()}
    assert [(one["key"], one["user"]) for one in expected] == [
        (alive[at]["key"], alive[at]["user"]) for at in sorted(alive)
    ]
    assert history(shop, topic, "&order=desc") == expected[::-1]
    for user in ("ada", "bob", "a longer name"):
        found = [one for one in expected if one["user"] == user]
        assert history(shop, topic, "&user=" + quote(user)) == found
        assert history(shop, topic, "&order=desc&user=" + quote(user)) == found[::-1]
    newest = {one["key"]: one for one in expected}
    latest = shop.get(f"/v1/topics/{topic}/latest").json()["events"]
    assert sorted(latest, key=lambda one: one["$offset"]) == sorted(newest.values(), key=lambda one: one["$offset"])
    selected = {
        "": expected,
        "?key=a": [one for one in expected if one["key"] == "a"],
        "?where=n>4&user=ada": [one for one in expected if one["n"] > 4 and one["user"] == "ada"],
        "?key=b&where=n<=4": [one for one in expected if one["key"] == "b" and one["n"] <= 4],
    }
    for query, model in models.items():
        until(lambda model=model, query=query: model.is_at(selected[query]), seconds=30)
        model.ended = True
    for offsets in entries:
        if events := [alive[at] for at in offsets if at in alive]:
            shop.post(reference, events)
    for window in ("1m", "15m") if kind else ("1m", "15m", "last 20"):
        wanted = statistics(shop, reference, window)
        until(lambda window=window, wanted=wanted: statistics(shop, topic, window) == wanted, seconds=30)
    assert series(shop, topic) == series(shop, reference)


def series(stack: Stack, topic: str) -> list[dict[str, Any]]:
    """Return sums, counts and medians over time, of all events and of one key."""
    query = "field=n&stat=count&stat=sum&stat=p50&window=1m&step=5s&since=1700000000000&until=1700000060000"
    found = [stack.get(f"/v1/topics/{topic}/stats/series?{query}{key}") for key in ("", "&key=a")]
    assert [answer.status for answer in found] == [200, 200], found
    assert all(any(answer.json()["stats"]["count"]) for answer in found)
    return [{name: answer.json()[name] for name in ("times", "stats")} for answer in found]


def statistics(stack: Stack, topic: str, window: str) -> list[list[Any]]:
    found = stack.stats(topic, f"?window={quote(window)}")
    return sorted((row for row in found["data"] if row[2]), key=repr) if not found.get("pending") else []


# Tokens


def token(**claims: Any) -> str:
    claims = {"exp": time.time() + 600, "sub": "u", "pushsvc": claims}
    return f"Bearer {jwt.encode(claims, SECRET, 'HS256')}"


WHOLE = [">"]
LIMITED = [{"topics": "orders.>", "keys": ["a"]}]


@pytest.fixture
def guarded(stack: Stack) -> Stack:
    stack.configure(f'jwt_key = "{SECRET}"\n' + SETTINGS)
    stack.start_aggregator()
    stack.start_web()
    return stack


def test_a_limited_producer_corrects_its_keys_alone(guarded: Stack) -> None:
    topic, all_ = "orders.mine", {"Authorization": token(publish=WHOLE, subscribe=WHOLE, manage=WHOLE)}
    mine = {"Authorization": token(publish=LIMITED, subscribe=LIMITED)}
    events = json.dumps([{"id": "1", "key": "a", "n": 1}, {"id": "2", "key": "b", "n": 2}]).encode()
    assert (
        guarded.request("POST", f"/v1/topics/{topic}/events", events, Content_Type="application/json", **all_).status
        == 202
    )
    hidden = patch(guarded, topic, "2", {"n": 3}, **mine)
    unknown = patch(guarded, topic, "9", {"n": 3}, **mine)
    assert (hidden.status, unknown.status) == (404, 404)
    assert hidden.json()["detail"].replace("2", "9") == unknown.json()["detail"]
    assert delete(guarded, topic, 2, **mine).status == 404
    assert guarded.get(path(topic, 2), **mine).status == 404
    assert patch(guarded, topic, "1", {"key": "b"}, **mine).status == 403
    assert patch(guarded, topic, "1", {"key": None}, **mine).status == 403
    assert patch(guarded, topic, "1", {"reply_to": "vault"}, **mine).status == 403
    assert patch(guarded, topic, "1", {"n": 5}, **mine).status == 200
    assert guarded.get(f"/v1/topics/{topic}/events?corrections=all", Accept="application/json", **mine).status == 403
    assert len(history(guarded, topic, "&corrections=all", **all_)) == 3
    assert guarded.get(path(topic, 1), Authorization=token(publish=WHOLE)).status == 403
    assert delete(guarded, topic, 1, Authorization=token(subscribe=WHOLE)).status == 403
    assert delete(guarded, topic, 1).status == 401
    assert delete(guarded, topic, "1", **mine).status == 200
    assert [one["n"] for one in history(guarded, topic, **all_)] == [2]


def test_an_event_that_leaves_a_key_is_deleted_without_its_new_form(guarded: Stack) -> None:
    """One that enters is a plain event. So it is for a filter."""
    topic, all_ = "orders.moved", {"Authorization": token(publish=WHOLE, subscribe=WHOLE, manage=WHOLE)}
    mine = {"Authorization": token(subscribe=LIMITED)}
    events = json.dumps([{"id": "1", "key": "a", "n": 1}, {"id": "2", "key": "b", "secret": 2}]).encode()
    guarded.request("POST", f"/v1/topics/{topic}/events", events, Content_Type="application/json", **all_)
    targets = (f"/v1/topics/{topic}/events?", f"/v1/stream?events={topic}&", "/v1/stream?events=%3E&")
    streams = [Stream(guarded.port, target + "last_event_id=earliest", mine) for target in targets]
    for stream in streams:
        assert stream.frame()[1]["id"] == "1"
    assert patch(guarded, topic, "1", {"key": "b", "secret": 9}, **all_).status == 200
    assert patch(guarded, topic, "2", {"key": "c"}, **all_).status == 200
    assert patch(guarded, topic, "2", {"key": "a", "secret": None}, **all_).status == 200
    assert patch(guarded, topic, "2", {"n": 4}, **all_).status == 200
    for resumed in (False, True):
        for target, stream in zip(targets, streams, strict=True):
            if resumed:
                stream = Stream(guarded.port, target + "last_event_id=earliest", mine)
                assert stream.frame()[1]["id"] == "1"
            name, data = stream.frame()
            assert name == "deleted"
            assert data.pop("$deleted")["offset"] == 3
            assert data == {"$topic": topic, "$offset": 1, "id": "1", "key": "a"}
            name, data = stream.frame()
            assert (name, data["$offset"], data["key"], "$corrected" in data) == ("message", 2, "a", False)
            name, data = stream.frame()
            assert (name, data["n"], data["$corrected"]["offset"]) == ("corrected", 4, 6)
            assert b"secret" not in stream.raw
            stream.close()
    assert [one["$offset"] for one in history(guarded, topic, **mine)] == [2]
    with guarded.stream(f"/v1/topics/{topic}/latest", **mine) as latest:
        assert [one["$offset"] for one in latest.frame()[1]["events"]] == [2]
        assert delete(guarded, topic, "2", **all_).status == 200
        assert latest.until(lambda name, _: name == "update") == {"topic": topic, "events": [], "gone": ["a"]}


def test_an_erased_event_is_deleted_for_all_and_shown_to_none(shop: Stack) -> None:
    topic = "orders.erased"
    shop.post(topic, [{"id": "x", "key": "secret-k", "user": "secret-u", "n": 7}, {"key": "b", "user": "v", "n": 1}])
    patch(shop, topic, "x", {"note": "secret-note"})
    live = [Model(shop, f"/v1/topics/{topic}/events{query}") for query in ("", "?key=secret-k", "?where=n>0")]
    until(lambda: all(1 in model.events for model in live))
    answer = shop.request("DELETE", path(topic, "x") + "?erase=true")
    assert (answer.status, answer.json()["event"]) == (200, None)
    until(lambda: not any(1 in model.events for model in live))
    assert shop.request("DELETE", path(topic, 1) + "?erase=true").status == 200
    targets = (
        path(topic, 1), f"/v1/topics/{topic}/events?corrections=all", f"/v1/topics/{topic}/events?user=secret-u",
        f"/v1/topics/{topic}/latest", f"/v1/topics/{topic}/events.csv?limit=all",
    )  # fmt: skip
    for target in targets:
        shown = shop.get(target, Accept="*/*")
        assert shown.status == 200
        assert b"secret" not in shown.body.replace(b"user=secret-u", b""), target
    assert [step["step"] for step in shop.get(path(topic, 1)).json()["life"]] == [
        "stored", "corrected", "deleted", "erased",
    ]  # fmt: skip
    assert [one["$offset"] for one in history(shop, topic)] == [2]
    late = Model(shop, f"/v1/topics/{topic}/events")
    until(lambda: late.is_at(history(shop, topic)) and late.names[-1] == "deleted")
    for model in (*live, late):
        model.ended = True
    until(lambda: [row[2] for row in shop.stats(topic)["data"] if row[:2] == [None, None]] == [1])
    assert "secret" not in str(shop.stats(topic))


def of_subs(stream: Stream) -> dict[str, str]:
    """Return the names of the next messages of two subscriptions."""
    found: dict[str, str] = {}
    while len(found) < 2:
        name, data = stream.frame()
        if (own := data.get("$sub") or data.get("sub")) is not None:  # that of a deletion is the server's own
            found[own] = name
    return found


def test_a_stream_of_several_subscriptions_has_corrections(shop: Stack) -> None:
    topic = "orders.subs"
    shop.post(topic, [{"key": "a", "n": 1}])
    subs = (f"events/{topic}?key=a", "events/orders.*?where=n>4")
    with shop.stream("/v1/stream?" + "&".join("sub=" + quote(sub, safe="") for sub in subs)) as stream:
        stream.read()
        patch(shop, topic, 1, {"n": 5})
        assert of_subs(stream) == {subs[0]: "corrected", subs[1]: "message"}
        patch(shop, topic, 1, {"key": "b"})
        assert of_subs(stream) == {subs[0]: "deleted", subs[1]: "corrected"}


def test_the_client_corrects_and_deletes(shop: Stack) -> None:
    topic = "orders.client"
    with Client(f"http://127.0.0.1:{shop.port}") as client:
        client.publish(topic, [{"id": "a b/1", "key": "k", "n": 1}, {"key": "k", "n": 2}])
        assert client.correct(topic, "a b/1", {"n": 5, "key": "j"})["event"]["n"] == 5
        assert client.delete_event(topic, 2)["correction"]["offset"] == 4
        assert [(one["key"], one["n"]) for one in client.history(topic)] == [("j", 5)]
        with pytest.raises(ClientError, match="410") as refused:
            client.delete_event(topic, 2)
        assert refused.value.problem["type"].endswith(":event-gone")
