"""Streams of events with ``type``, ``key`` and ``where``: what comes, and what a client that comes back gets."""

import json
import random
import signal
import socket
import threading
from contextlib import ExitStack, suppress
from urllib.parse import urlencode

import pytest

from pushsvc.cursor import decode
from pushsvc.sse import Decoder
from support.effort import rounds
from support.stack import Stack
from support.waiting import DEADLINE, until

KEYS = [None, "u0", "u1", "u2", "u3", "é &?"]
TYPES = ["message", "sale", "gift"]
FILTERS = [
    ([("key", "u1")], lambda e: e.get("key") == "u1"),
    ([("key", "é &?")], lambda e: e.get("key") == "é &?"),
    ([("type", "sale")], lambda e: e["type"] == "sale"),
    ([("where", "n>=50"), ("where", "half=true")], lambda e: e["n"] >= 50 and e["half"] is True),
    ([("where", "note!=x"), ("type", "message")], lambda e: e.get("note") != "x" and e["type"] == "message"),
    ([("key", "u2"), ("type", "gift"), ("where", "n<30")], lambda e: (e.get("key"), e["type"]) == ("u2", "gift") and e["n"] < 30),  # noqa: E501
    ([("key", "nobody")], lambda e: False),
    ([], lambda e: True),
]  # fmt: skip


def path(topic, parameters):
    return f"/v1/topics/{topic}/events?{urlencode(parameters)}"


def an_event(dice):
    event = {"n": dice.randrange(100), "half": dice.random() < 0.5, "type": dice.choice(TYPES)}
    if (key := dice.choice(KEYS)) is not None:
        event["key"] = key
    if dice.random() < 0.5:
        event["note"] = dice.choice("xy")
    return event


class Client:
    """Reads a stream in a thread, and comes back from the last id that it has seen."""

    def __init__(self, server, path, cursor):
        self.received, self._server, self._path, self._cursor = [], server, path, cursor
        self._socket = self._reader = None

    def connect(self):
        self._socket = socket.create_connection(("127.0.0.1", self._server.port), DEADLINE)
        lines = ["Host: 127.0.0.1", "Accept: text/event-stream", f"Last-Event-ID: {self._cursor}"]
        self._socket.sendall("\r\n".join([f"GET {self._path} HTTP/1.0", *lines, "", ""]).encode())
        self._reader = threading.Thread(target=self._read, args=(self._socket, Decoder(self._cursor)), daemon=True)
        self._reader.start()

    def _read(self, connection, decoder):
        head, separator = b"", b"\r\n\r\n"
        with suppress(OSError):  # the test cuts the connection
            while data := connection.recv(65_536):
                if separator not in head:
                    head += data
                    data = head.partition(separator)[2]
                for message in decoder.feed(data):
                    self._cursor = message.id
                    if message.event != "heartbeat":
                        self.received.append((message.event, json.loads(message.data)))

    def disconnect(self):
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._reader.join(DEADLINE)
            assert not self._reader.is_alive()
            self._socket.close()
            self._socket = None


def first_cursor(server, topic):
    """Return the cursor of a client that has seen the first event of a topic."""
    with server.stream(path(topic, [])) as stream:
        stream.read()
        assert server.post(topic, {"n": 0, "half": False}).status == 202
        return stream.next().id


@pytest.mark.parametrize("seed", range(rounds(10)))
def test_random_work_is_received_once_in_order_and_exactly_as_selected(broker_stack, topic, seed):
    dice, server, published = random.Random(seed), broker_stack, []
    topic = f"{topic}-{seed}"
    begin = first_cursor(server, topic)
    clients = [(Client(server, path(topic, query), begin), selects) for query, selects in FILTERS * 2]
    for step in range(60):
        if step == 30:
            server.stop("web", signal.SIGKILL)
            until(lambda: not server.listening())
            server.start_web("--heartbeat", "1")
        for client, _selects in dice.sample(clients, 3):
            client.disconnect()
            if dice.random() < 0.7:
                client.connect()
        batch = [an_event(dice) for _ in range(dice.choice([1, 1, 3, 40]))]
        assert server.post(topic, batch).status == 202
        published += batch
    for client, _ in clients:
        client.disconnect()
        client.connect()
    for client, selects in clients:
        expected = [(n, event) for n, event in enumerate(published, 2) if selects(event)]
        until(lambda: len(client.received) >= len(expected))  # noqa: B023
        received = [(data["$offset"], {k: v for k, v in data.items() if k in an_event_of(data)})
                    for _, data in client.received]  # fmt: skip
        assert [offset for offset, _ in received] == [offset for offset, _ in expected]
        assert received == expected
    for client, _ in clients:
        client.disconnect()


def an_event_of(data):
    return [name for name in data if name not in ("$offset", "$topic", "time")]


@pytest.fixture(scope="module")
def broker_stack(redis_url, tmp_path_factory):
    with Stack(redis_url, "filters:", tmp_path_factory.mktemp("filters")) as stack:
        stack.start_web("--heartbeat", "1")
        yield stack


@pytest.mark.parametrize("how", ["earliest", "live"])
def test_stream_selects_as_history_does(server, topic, how):
    dice = random.Random(how)
    events = [an_event(dice) for _ in range(300)]
    with ExitStack() as stack:
        if how == "earliest":
            server.post(topic, events)
        streams = [
            stack.enter_context(server.stream(path(topic, [*query, *([("last_event_id", how)] * (how != "live"))])))
            for query, _ in FILTERS
        ]
        for stream in streams:
            stream.read()
        if how == "live":
            server.post(topic, events)
        for stream, (query, _) in zip(streams, FILTERS, strict=True):
            history = server.get(path(topic, query), Accept="application/json").json()["events"]
            assert [stream.frame()[1] for _ in history] == history


def test_cursor_moves_past_what_was_filtered_out(broker_stack, topic):
    """A client of a key that is silent gets the position by heartbeat, and comes back from there."""
    server = broker_stack
    with server.stream(path(topic, [("key", "silent")])) as stream:
        stream.read()
        for n in range(5):
            server.post(topic, [{"key": "loud", "n": n}] * 20)
        with server.stream(path(topic, [("heartbeat", "event")])) as now:
            [(partition, end)] = decode(now.next().id).items()

        def moved():
            message = stream.next()
            found = message.event == "heartbeat" and decode(message.id).get(partition)
            return found and found.sequence >= end.sequence and message.id

        cursor = until(moved)
    server.post(topic, {"key": "silent", "n": 1})
    server.post(topic, {"key": "silent", "n": 2})
    with server.stream(path(topic, [("key", "silent")]), Last_Event_ID=cursor) as stream:
        assert [stream.until(lambda event, _: event == "message")["n"] for _ in range(2)] == [1, 2]
    with server.stream(path(topic, []), Last_Event_ID=cursor) as everything:
        assert everything.until(lambda event, _: event == "message")["n"] == 1  # nothing loud comes again


def test_slow_reader_gets_every_selected_event_from_the_log(broker_stack, topic):
    """A client reads nothing while more is published than sockets and backlog hold."""
    server, text = broker_stack, "x" * 2_000
    with server.stream(path(topic, [("key", "u1")])) as stream:
        stream.read()
        for start in range(0, 8_000, 200):
            server.post(topic, [{"key": f"u{n % 2}", "n": n, "text": text} for n in range(start, start + 200)])
        numbers = []
        while len(numbers) < 4_000:
            event, data = stream.frame()
            if event != "heartbeat":
                numbers.append(data["n"])
        assert numbers == list(range(1, 8_000, 2))


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("where=n", "where"), ("where=n<true", "where"), ("&".join(["where=n=1"] * 21), "where"),
        ("type=a&type=b", "type"),
        ("key=a&key=b", "key"), ("limit=3", "limit"), ("since=2026-01-01T00:00:00Z", "since"), ("after=x", "after"),
    ],
)  # fmt: skip
def test_bad_filter_is_refused_by_name(server, topic, query, parameter):
    answer = server.get(f"/v1/topics/{topic}/events?{query}", Accept="text/event-stream")
    assert (answer.status, answer.json()["parameter"]) == (400, parameter)


def test_filters_beyond_the_limit_are_refused_and_say_which(redis_url, prefix, tmp_path, topic):
    with Stack(redis_url, prefix, tmp_path) as server, ExitStack() as stack:
        server.configure("[limits]\nfilters = 2\n")
        server.start_web()
        for n in range(2):
            stack.enter_context(server.stream(path(topic, [("where", f"n={n}")]))).read()
        with server.stream(path(topic, [("where", "n=2")])) as refused:
            assert b"limits.filters" in refused.rest()
        for query in ([("where", "n=1")], [("key", "a"), ("where", "n=2")], [("key", "a")]):
            stack.enter_context(server.stream(path(topic, query))).read()
