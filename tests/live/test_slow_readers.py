"""Readers far slower than their stream: they slow down no other stream and receive all that the contract promises."""

import json
import socket
from collections import defaultdict

from pushsvc.sse import Decoder
from support.chunked import ChunkDecoder
from support.latest import Board
from support.stack import Table
from support.waiting import DEADLINE


class SlowReader:
    """A stream with the smallest receive buffer, read only after everything was published.

    The server closes a connection that takes nothing for a minute, and a busy machine may need longer for these tests.
    The reader then resumes, as a browser does; ``resumed`` counts that.
    """

    def __init__(self, server, path):
        self.resumed = 0
        self._port, self._path = server.port, path
        self._decoder = Decoder()
        self._open()

    def _open(self):
        self._connection = socket.socket()
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        self._connection.settimeout(DEADLINE)
        self._connection.connect(("127.0.0.1", self._port))
        lines = [f"GET {self._path} HTTP/1.1", "Host: 127.0.0.1", "Accept: text/event-stream"]
        if self._decoder.last_id:
            lines.append(f"Last-Event-ID: {self._decoder.last_id}")
        self._connection.sendall("\r\n".join([*lines, "", ""]).encode())
        self._chunks = ChunkDecoder()
        head, _, self._body = self._connection.recv(1_000).partition(b"\r\n\r\n")
        assert b" 200 " in head

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._connection.close()

    def messages(self):
        while True:
            yield from self._decoder.feed(self._chunks.feed(self._body))
            try:
                self._body = self._connection.recv(1 << 20)
                assert self._body, "the stream ended"
            except ConnectionResetError:
                self._connection.close()
                self._decoder = Decoder(self._decoder.last_id)
                self._open()
                self.resumed += 1


def test_slow_reader_receives_every_event_from_the_log(shared_server, topic):
    path, text = f"/v1/topics/{topic}/events", "x" * 1_000
    with SlowReader(shared_server, path) as slow, shared_server.stream(path) as quick:
        quick.read()
        for number in range(60):
            batch = [{"key": f"k{i}", "n": number, "text": text} for i in range(200)]
            assert shared_server.post(topic, batch).status == 202
        assert [json.loads(quick.next().data)["$offset"] for _ in range(12_000)] == list(range(1, 12_001))
        late = slow.messages()
        assert [json.loads(next(late).data)["$offset"] for _ in range(12_000)] == list(range(1, 12_001))


def test_slow_reader_of_several_subscriptions_gets_every_event_and_the_newest_states(shared_server, topic):
    path, text = f"/v1/stream?sub=events/{topic}&sub=latest/job.{topic}&sub=stats/{topic}", "x" * 1_000
    received, late = defaultdict(list), Board()
    with SlowReader(shared_server, path) as slow:
        for number in range(60):
            batch = [{"key": f"k{i}", "n": number, "text": text} for i in range(100)]
            assert shared_server.post(topic, batch).status == 202
            assert shared_server.post(f"job.{topic}", batch).status == 202
        wanted = shared_server.get(f"/v1/topics/job.{topic}/latest").json()["events"]
        updates = 0
        for message in slow.messages():
            data = json.loads(message.data)
            received[data.get("$sub") or data.get("sub")].append(data)
            if data.get("sub") == f"latest/job.{topic}":
                late.apply(message.event, data)
                updates += 1
            counted = received[f"stats/{topic}"] and received[f"stats/{topic}"][-1]["offset"] == 6_000
            events = received[f"events/{topic}"]
            if len(events) == 6_000 and counted and list(late.events.values()) == wanted:
                break
    assert [event["$offset"] for event in events] == list(range(1, 6_001))
    assert updates < 60 or slow.resumed


def test_slow_reader_of_newest_events_gets_the_newest_state_and_no_queue(shared_server, topic):
    path, text = f"/v1/topics/job.{topic}/latest", "x" * 1_000
    board, late, updates = Board(), Board(), 0
    with SlowReader(shared_server, path) as slow, shared_server.stream(path) as quick:
        board.apply(*quick.frame())
        for number in range(120):
            batch = [{"key": f"k{number % 7}-{i}", "n": number, "text": text} for i in range(100)]
            batch.append({"key": f"k{(number + 3) % 7}-0", "type": "delete"})
            last = shared_server.post(f"job.{topic}", batch).json()["last_offset"]
            while board.offset < last - 1:
                board.apply(*quick.frame())
                updates += 1
        wanted = shared_server.get(path).json()["events"]
        for message in slow.messages():
            late.apply(message.event, json.loads(message.data))
            if list(late.events.values()) == wanted:
                break
    assert list(board.events.values()) == wanted
    assert len(late.names) < updates


def test_slow_reader_of_statistics_skips_frames_and_reaches_the_same_state(stack):
    stack.configure('[topics.">"]\nwindows = ["15m"]\ncadence_ms = 0\n')
    stack.start_aggregator()
    stack.start_web()
    path = "/v1/topics/many/stats"
    with SlowReader(stack, path) as slow, stack.stream(path) as quick:
        table, number = Table(), 0
        while len(quick.raw) < 9_000_000:
            number += 1
            batch = [{"key": f"k{i}", "n": number} for i in range(3_000)]
            last = stack.post("many", batch).json()["last_offset"]
            while table.offset < last:
                table.apply(*quick.frame())
        late, skipped = Table(), 0
        for message in slow.messages():
            frame = json.loads(message.data)
            skipped += frame.get("skipped", 0)
            late.apply(message.event, frame)
            if late.offset == last:
                break
    assert skipped > 0 or slow.resumed
    assert late.live() == table.live()
