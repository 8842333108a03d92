"""Several subscriptions on one stream while events come and are corrected, and their reader comes, goes and is slow."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from random import Random
from typing import Any
from urllib.parse import urlencode

import pytest

from pushsvc.sse import Message
from support.latest import Board
from support.stack import Stack, Stream, Table
from support.waiting import until

PATCH = "application/merge-patch+json"


class Producer(threading.Thread):
    """Publishes, corrects and deletes events at random. ``problem`` is the first answer that was not expected."""

    def __init__(self, stack: Stack, topics: list[str], seed: int) -> None:
        super().__init__(daemon=True)
        self.last: dict[str, int] = {}
        self.problem: object = None
        self.requests = 0
        self._stack, self._topics, self._chance = stack, topics, Random(seed)
        self._ids: dict[str, list[str]] = defaultdict(list)
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(0.01) and self.problem is None:
            topic = self._chance.choice(self._topics)
            self.requests += 1
            answer = self._correct(topic) if self._chance.random() < 0.4 and self._ids[topic] else self._publish(topic)
            if answer.status not in (200, 202, 404, 410):
                self.problem = answer

    def wait_for(self, requests: int) -> None:
        """Return once this many more requests were made."""
        wanted = self.requests + requests
        until(lambda: self.requests >= wanted)

    def end(self) -> None:
        self._ended.set()
        self.join()
        assert self.problem is None, self.problem

    def _publish(self, topic: str) -> Any:
        events = [self._event(f"{topic}-{len(self._ids[topic]) + n}") for n in range(self._chance.randrange(1, 20))]
        answer = self._stack.post(topic, events)
        self._ids[topic] += [event["id"] for event in events]
        self.last[topic] = answer.json()["last_offset"]
        return answer

    def _event(self, id: str) -> dict[str, Any]:
        chance = self._chance
        text = "x" * (30_000 if chance.random() < 0.05 else 100)
        event = {
            "id": id,
            "key": f"k{chance.randrange(4)}",
            "n": chance.randrange(1_000),
            "text": text,
            "sub": "theirs",
        }
        return event | ({"type": chance.choice(["moved", "deleted", "update"])} if chance.random() < 0.3 else {})

    def _correct(self, topic: str) -> Any:
        path = f"/v1/topics/{topic}/events/{self._chance.choice(self._ids[topic])}"
        if self._chance.random() < 0.3:
            answer = self._stack.request("DELETE", path)
        else:
            changes = {"n": self._chance.randrange(1_000), "key": f"k{self._chance.randrange(4)}"}
            answer = self._stack.request("PATCH", path, json.dumps(changes).encode(), Content_Type=PATCH)
        if answer.status == 200 and answer.json()["correction"]:
            self.last[topic] = max(self.last[topic], answer.json()["correction"]["offset"])
        return answer


class Reader:
    """What the subscriptions of a stream have told so far, and its cursor."""

    def __init__(self) -> None:
        self.cursor: str | None = None
        self.events: dict[str, dict[tuple[str, int], dict[str, Any]]] = defaultdict(dict)
        self.tables: dict[str, Table] = defaultdict(Table)
        self.boards: dict[str, Board] = defaultdict(Board)

    def take(self, message: Message) -> None:
        self.cursor = message.id or self.cursor
        data = json.loads(message.data)
        assert message.event != "reset", data
        if message.event == "heartbeat":
            return
        sub = data.pop("$sub", None) or data.pop("sub")
        if sub.startswith("latest/"):
            self.boards[sub].apply(message.event, data)
        elif sub.startswith("stats/"):
            self.tables[sub].apply(message.event, data)
        else:
            self._take_event(self.events[sub], message.event, data)

    def lacking(
        self, wanted: dict[str, dict[tuple[str, int], Any]], boards: dict[str, Any], tables: dict[str, dict[Any, int]]
    ) -> dict[str, Any]:
        """Return what differs from the state of the server, by subscription."""
        counted = {sub: {name: row[2] for name, row in self.tables[sub].live().items()} for sub in tables}
        shown = {sub: list(self.boards[sub].events.values()) for sub in boards}
        return {
            **{
                sub: differences(self.events[sub], events)
                for sub, events in wanted.items()
                if self.events[sub] != events
            },
            **{sub: [shown[sub], state] for sub, state in boards.items() if shown[sub] != state},
            **{sub: differences(counted[sub], counts) for sub, counts in tables.items() if counted[sub] != counts},
        }

    def _take_event(self, events: dict[tuple[str, int], dict[str, Any]], name: str, data: dict[str, Any]) -> None:
        place = data["$topic"], data["$offset"]
        changes = "$corrected" in data or "$deleted" in data
        assert changes == (place in events), f"{name} {place}: repeated, or a change of an event that never came"
        if "$deleted" in data:
            del events[place]
            return
        data.pop("$corrected", None)
        assert data["sub"] == "theirs"
        events[place] = data


def differences(got: dict[Any, Any], wanted: dict[Any, Any]) -> dict[Any, Any]:
    names = [name for name in {**got, **wanted} if got.get(name) != wanted.get(name)]
    return {name: (got.get(name), wanted.get(name)) for name in names[:5]}


@pytest.mark.parametrize("how", ["socket", "iterated"])
def test_every_event_and_correction_comes_once(stack: Stack, topic: str, how: str) -> None:
    """Each event comes once and each correction is of an event that came, over cuts at any message."""
    stack.start_aggregator()
    stack.start_web() if how == "socket" else stack.start_iterated()
    chance = Random(0)
    topics, job = [f"{topic}.{name}" for name in "abc"], f"job.{topic}"
    of_events = {
        f"events/{topics[0]}": (topics[:1], ""),
        f"events/{topics[0]}?key=k1": (topics[:1], "key=k1"),
        f"events/{topics[1]}?where=n%3E500&type=moved": (topics[1:2], "where=n%3E500&type=moved"),
        f"events/{topic}.*?where=n<300": (topics, "where=n<300"),
        f"events/{topic}.>": (topics, ""),
    }
    of_rows = [f"stats/{topics[0]}?window=15m", f"stats/{topics[1]}?window=15m&key=k2"]
    of_states = [f"latest/{job}", f"latest/{job}?key=k1&key=k3"]
    subs = [*of_events, *of_rows, *of_states]
    producer, reader = Producer(stack, [*topics, job], 0), Reader()

    def connect() -> Stream:
        chance.shuffle(subs)
        path = "/v1/stream?" + urlencode([("sub", sub) for sub in subs])
        return Stream(stack.port, path, {"Last-Event-ID": reader.cursor or "earliest"})

    def take(stream: Stream) -> Stream:
        """Take the next message; return the stream, or another one if a slow machine let this one begin in vain."""
        while True:
            try:
                message = stream.next()
            except AssertionError as error:
                if b": Redis is not reachable\n" not in stream.raw:
                    raise AssertionError(f"{reader.lacking(wanted, boards, tables)}\n{error}") from None
                stream.close()
                stream = connect()
                continue
            reader.take(message)
            return stream

    wanted: dict[str, dict[tuple[str, int], Any]] = {}
    boards: dict[str, list[Any]] = {}
    tables: dict[str, dict[Any, int]] = {}
    producer.start()
    try:
        for _ in range(8):
            stream = connect()
            for _ in range(chance.randrange(1, 120)):
                stream = take(stream)
            if chance.random() < 0.5:
                producer.wait_for(20)  # the reader is slow, then goes on
                for _ in range(chance.randrange(400)):
                    stream = take(stream)
            stream.close()
    finally:
        producer.end()
    wanted = {
        sub: {(name, event["$offset"]): event for name in names for event in found(stack, name, "events", query)}
        for sub, (names, query) in of_events.items()
    }
    boards = {sub: latest(stack, sub) for sub in of_states}
    tables = {sub: counts(stack, sub, producer.last) for sub in of_rows}
    stream = connect()
    while reader.lacking(wanted, boards, tables):
        stream = take(stream)
    stream.close()


def found(stack: Stack, name: str, resource: str, query: str) -> list[dict[str, Any]]:
    limit = "limit=10000&" if resource == "events" else ""
    answer = stack.get(f"/v1/topics/{name}/{resource}?{limit}{query}", Accept="application/json")
    assert answer.status == 200, answer
    events: list[dict[str, Any]] = answer.json()["events"]
    return events


def latest(stack: Stack, sub: str) -> list[dict[str, Any]]:
    name, _, query = sub.removeprefix("latest/").partition("?")
    return found(stack, name, "latest", query)


def counts(stack: Stack, sub: str, last: dict[str, int]) -> dict[Any, int]:
    name, _, query = sub.removeprefix("stats/").partition("?")

    def counted() -> dict[str, Any] | None:
        frame = stack.stats(name, f"?{query}&at_least={last[name]}")
        return None if frame.get("pending") else frame  # corrections are not counted yet

    table = Table()
    table.apply("snapshot", until(counted))
    return {row: values[2] for row, values in table.live().items()}
