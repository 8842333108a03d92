"""Subscribers that disconnect, also in the middle of a message, and reconnect together during publishing."""

import json
import re
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pushsvc.sse import Decoder
from support.chunked import ChunkDecoder
from support.stack import Stream, Table
from support.waiting import DEADLINE, until


def opened(server, path, **headers):
    """Open a stream on a bare socket; return the socket after its response head and first bytes have arrived."""
    return open_raw(server, path, **headers)[0]


def open_raw(server, path, **headers):
    """As ``opened``; return also the bytes of the body that have arrived."""
    connection = socket.create_connection(("127.0.0.1", server.port), DEADLINE)
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()]
    head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n{''.join(lines)}\r\n"
    connection.sendall(head.encode())
    got = b""
    while b"\r\n\r\n" not in got or b": pushsvc" not in got:
        piece = connection.recv(1)
        assert piece, got
        got += piece
    return connection, got.partition(b"\r\n\r\n")[2]


def leave(connection, how):
    if how == "reset":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if how == "half":
        connection.shutdown(socket.SHUT_WR)
    else:
        connection.close()


@pytest.mark.parametrize("how", ["close", "reset", "half"])
def test_disconnected_subscriber_is_noticed_without_a_send(own_server, topic, how):
    paths = [f"/v1/topics/{topic}/events", f"/v1/topics/{topic}/stats", f"/v1/stream?events={topic}.>"]
    connections = [opened(own_server, path) for path in paths * 4]
    until(lambda: own_server.metric("pushsvc_streams") == 12)
    for connection in connections[:9]:
        leave(connection, how)
    until(lambda: own_server.metric("pushsvc_streams") == 3)
    own_server.post(topic, {"n": 1})
    with own_server.stream(paths[0] + "?last_event_id=earliest") as stream:
        assert json.loads(stream.next().data)["n"] == 1
    for connection in connections:
        connection.close()


def test_disconnect_during_a_snapshot_leaves_other_streams_intact(own_server, topic):
    text = "k" * 150
    own_server.post(topic, [{"key": f"{text}{n}", "n": n} for n in range(5_000)])
    until(lambda: own_server.stats(topic, "?key=")["offset"] == 5_000)
    path = f"/v1/topics/{topic}/stats"
    for number in range(20):
        connection = opened(own_server, path)
        connection.recv(1 + number * 1_000)
        leave(connection, "reset" if number % 2 else "close")
    table = Table()
    with own_server.stream(path) as stream:
        table.apply(*stream.frame())
        own_server.post(topic, {"key": "last", "n": 1})
        while table.offset < 5_001:
            table.apply(*stream.frame())
    assert len(table.rows) == 2 * 5_002
    until(lambda: own_server.metric("pushsvc_streams") == 0)


def test_stream_read_byte_by_byte_is_the_same(server, topic):
    server.post(topic, [{"n": n} for n in range(50)])
    decoder, chunks, seen = Decoder(), ChunkDecoder(), []
    connection, begun = open_raw(server, f"/v1/topics/{topic}/events?last_event_id=earliest")
    with connection:
        chunks.feed(begun)
        while len(seen) < 50:
            data = chunks.feed(connection.recv(1))
            seen += [json.loads(message.data)["n"] for message in decoder.feed(data) if message.data]
    assert seen == list(range(50))


def test_30_subscribers_resume_during_publishing_without_gap_or_repeat(server, topic):
    """Thirty clients disconnect after a few messages and resume, while batches of 1 to 23 events are published."""
    total, stop = 3_000, threading.Event()

    def publish():
        sent = 0
        while sent < total:
            size = min(total - sent, 1 + sent % 23)
            server.post(topic, [{"n": sent + i} for i in range(size)])
            sent += size
        stop.set()

    def follow(number):
        seen, cursor = [], "earliest"
        while len(seen) < total:
            stream = Stream(server.port, f"/v1/topics/{topic}/events", {"Last_Event_ID": cursor})
            for _ in range(min(50 + 37 * number, total - len(seen))):
                message = stream.next()
                seen.append(json.loads(message.data)["n"])
                cursor = message.id
            stream.close()
        return seen

    with ThreadPoolExecutor(31) as pool:
        publishing = pool.submit(publish)
        found = list(pool.map(follow, range(30)))
        publishing.result()
    assert all(seen == list(range(total)) for seen in found)


def test_statistics_that_resume_during_publishing_reach_the_final_state(server, topic):
    total = 400
    server.post(topic, {"key": "k0", "n": 0})

    def publish():
        for number in range(1, total):
            server.post(topic, {"key": f"k{number % 40}", "n": number})

    def follow(number):
        table, cursor = Table(), None
        while table.offset < total:
            headers = {} if cursor is None else {"Last_Event_ID": cursor}
            stream = Stream(server.port, f"/v1/topics/{topic}/stats", headers)
            for _ in range(1 + number % 4):
                message = stream.next()
                table.apply(message.event, json.loads(message.data))
                cursor = message.id
                if table.offset == total:
                    break
            stream.close()
        return table

    with ThreadPoolExecutor(13) as pool:
        publishing = pool.submit(publish)
        tables = list(pool.map(follow, range(12)))
        publishing.result()
    state = {(row[0], row[1]): row for row in server.stats(topic)["data"]}
    assert all(table.live() == state for table in tables)


def test_drain_under_load_sends_acknowledged_events_and_spreads_retries(stack, topic):
    stack.start_web("--drain", "600")  # Stack.stop gives up long before
    streams = [Stream(stack.port, f"/v1/topics/{topic}/events", {}) for _ in range(50)]
    for stream in streams:
        stream.read()
    acknowledged, ended = [0], threading.Event()

    def publish():
        while not ended.is_set():
            try:
                acknowledged[0] = stack.post(topic, [{"n": 1}] * 5).json()["last_offset"]
            except (OSError, KeyError, ValueError):
                return

    with ThreadPoolExecutor(51) as pool:
        publishing = pool.submit(publish)
        until(lambda: acknowledged[0] > 100)
        reading = [pool.submit(stream.rest) for stream in streams]
        assert stack.stop("web") == 0
        ended.set()
        texts = [one.result() for one in reading]
        publishing.result()
    retries = set()
    for text in texts:
        offsets = [int(number) for number in re.findall(rb'"\$offset":([0-9]+)', text)]
        assert offsets == list(range(1, len(offsets) + 1))
        assert text.endswith(b": the server is restarting\n")
        retries.add(re.findall(rb"retry: ([0-9]+)", text)[-1])
    assert len(retries) > 20
    last = streams[0].decoder.last_id
    seen = len(re.findall(rb'"\$offset"', texts[0]))
    stack.start_web()
    with stack.stream(f"/v1/topics/{topic}/events", Last_Event_ID=last) as stream:
        stack.post(topic, {"n": 2})
        offset = stream.until(lambda _, data: data["n"] == 2)["$offset"]
        assert offset > acknowledged[0] >= seen - 5


def test_head_request_of_a_stream_has_no_body(server, topic):
    path = f"/v1/topics/{topic}/events?format=sse"
    answer = server.request("HEAD", path)
    with server.stream(path) as stream:
        each = {"Date": "", "X-Request-Id": ""}
        assert {**stream.response.headers, **each} == {**answer.headers, **each}
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert answer.body == b""
