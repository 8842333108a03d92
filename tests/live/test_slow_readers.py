"""Stalled readers: they slow down no other stream and receive everything that the contract promises."""

import json
import socket
from contextlib import contextmanager

from pushsvc.sse import Decoder
from support.stack import Table
from support.waiting import DEADLINE


@contextmanager
def stalled(server, path):
    """Open a stream with the smallest receive buffer and read only its head."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.settimeout(DEADLINE)
        connection.connect(("127.0.0.1", server.port))
        request = f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n"
        connection.sendall(request.encode())
        head = connection.recv(300)
        assert b" 200 " in head
        yield connection, head


def messages(connection, head):
    decoder = Decoder()
    body = head.partition(b"\r\n\r\n")[2]
    while True:
        yield from decoder.feed(body)
        body = connection.recv(1 << 20)
        assert body, "the stream ended"


def post_megabytes(server, topic, posts):
    text = "x" * 1_000
    for number in range(posts):
        batch = [{"key": f"k{i}", "n": number, "text": text} for i in range(200)]
        assert server.post(topic, batch).status == 202


def test_stalled_reader_receives_every_event_from_the_log(shared_server, topic):
    path = f"/v1/topics/{topic}/events"
    with stalled(shared_server, path) as (slow, head), shared_server.stream(path) as quick:
        quick.read()
        post_megabytes(shared_server, topic, 60)
        assert [json.loads(quick.next().data)["$offset"] for _ in range(12_000)] == list(range(1, 12_001))
        late = messages(slow, head)
        assert [json.loads(next(late).data)["$offset"] for _ in range(12_000)] == list(range(1, 12_001))


def test_stalled_reader_of_statistics_skips_frames_and_reaches_the_same_state(stack):
    stack.configure('[topics.">"]\nwindows = ["15m"]\ncadence_ms = 0\n')
    stack.start_aggregator()
    stack.start_web()
    path = "/v1/topics/many/stats"
    with stalled(stack, path) as (slow, head), stack.stream(path) as quick:
        table, number = Table(), 0
        while len(quick.raw) < 9_000_000:
            number += 1
            batch = [{"key": f"k{i}", "n": number} for i in range(3_000)]
            last = stack.post("many", batch).json()["last_offset"]
            while table.offset < last:
                table.apply(*quick.frame())
        late, skipped = Table(), 0
        for message in messages(slow, head):
            frame = json.loads(message.data)
            skipped += frame.get("skipped", 0)
            late.apply(message.event, frame)
            if late.offset == last:
                break
    assert skipped > 0
    assert late.live() == table.live()
