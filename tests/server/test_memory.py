"""Bodies under way and unread answers over real sockets, in a server with a small budget."""

from __future__ import annotations

import json
import select
import socket
from collections.abc import Callable
from typing import Any

import pytest

from support.raw_http import RawResponse, ServerProcess, parse_responses, read_all, read_until
from support.waiting import DEADLINE, until

StartServer = Callable[..., ServerProcess]
SIZE = 1_000_000


def begin(server: ServerProcess, size: int, sent: int, path: str = "/") -> socket.socket:
    """Begin an upload of ``size`` bytes; send ``sent`` of them."""
    connection = server.connect()
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n"
    connection.sendall(head.encode() + b"x" * sent)
    return connection


def finish(connection: socket.socket, rest: int) -> RawResponse:
    connection.sendall(b"x" * rest)
    return answer_of(connection)


def answer_of(connection: socket.socket) -> RawResponse:
    [answer] = parse_responses(read_all(connection))
    connection.close()
    return answer


def held(server: ServerProcess) -> int:
    """Return the bytes that the server counts."""
    with server.connect() as connection:
        connection.sendall(b"GET /held HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        return int(answer_of(connection).body)


@pytest.mark.parametrize("path", ["/", "/fast"])
def test_the_largest_upload_makes_room_for_others(start_server: StartServer, path: str) -> None:
    server = start_server(memory=2_000_000)  # 1.5 MB for what arrives
    large = begin(server, SIZE, SIZE - 1, path)
    until(lambda: held(server) == SIZE - 1)
    small = begin(server, 600_000, 599_999, path)
    refused = answer_of(large)
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert refused.headers["content-type"] == "application/problem+json"
    assert json.loads(refused.body)["type"] == "urn:pushsvc:problem:memory-full"
    assert finish(small, 1).status in (200, 202)
    until(lambda: held(server) == 0)


@pytest.mark.parametrize("path", ["/", "/fast"])
def test_an_upload_larger_than_the_others_is_refused(start_server: StartServer, path: str) -> None:
    server = start_server(memory=2_000_000)
    small = [begin(server, 300_000, 299_999, path) for _ in range(2)]
    until(lambda: held(server) == 599_998)
    assert answer_of(begin(server, SIZE, SIZE - 100, path)).status == 503
    assert [finish(connection, 1).status in (200, 202) for connection in small] == [True, True]


def test_chunks_count_as_they_arrive(start_server: StartServer) -> None:
    server = start_server(memory=8_000_000)
    with server.connect() as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
        for _ in range(10):
            connection.sendall(b"186A0\r\n" + b"x" * 100_000 + b"\r\n")
        until(lambda: SIZE <= held(server) < SIZE + 1_000)
        connection.sendall(b"0\r\n\r\n")
        assert answer_of(connection).status == 200
    until(lambda: held(server) == 0)


def test_a_body_that_arrives_with_its_head_is_not_counted(start_server: StartServer) -> None:
    server = start_server(memory=4)
    with begin(server, 10_000, 10_000) as connection:
        assert answer_of(connection).status == 200


def test_the_work_on_bodies_waits_for_its_turn(start_server: StartServer) -> None:
    server = start_server(memory=4_000_000)  # 1 MB for work: less than one of these bodies needs
    uploads = [begin(server, 500_000, 499_999, "/waits-after-body") for _ in range(4)]
    until(lambda: held(server) == 4 * 499_999)
    for connection in uploads:
        connection.sendall(b"x")
    bodies = [answer_of(connection).body for connection in uploads]
    assert bodies == [b"at most 1 at a time"] * 4
    until(lambda: held(server) == 0)


def test_an_unread_answer_makes_room_for_a_smaller_one(start_server: StartServer) -> None:
    server = start_server(memory=20_000_000)  # 15 MB; the answer has 10
    unread = ask_without_reading(server, "/big")
    until(lambda: held(server) == 10_000_000)
    other = ask_without_reading(server, "/big")
    poll = select.poll()
    poll.register(unread, 0)
    assert poll.poll(DEADLINE * 1_000), "the connection of the older answer is reset"
    assert held(server) == 10_000_000
    assert len(answer_of(other).body) == 10_000_000
    unread.close()
    until(lambda: held(server) == 0)


def test_an_answer_larger_than_all_room_is_refused_with_a_status(start_server: StartServer) -> None:
    with start_server(memory=8_000_000).connect() as connection:
        connection.sendall(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
        assert answer_of(connection).status == 503


def test_an_answer_that_is_not_read_at_its_pace_is_ended(start_server: StartServer) -> None:
    server = start_server(body=0.2, rate=10_000_000)
    unread = ask_without_reading(server, "/big")
    poll = select.poll()
    poll.register(unread, 0)
    assert poll.poll(DEADLINE * 1_000)
    unread.close()
    until(lambda: held(server) == 0)


def ask_without_reading(server: ServerProcess, path: str) -> Any:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    connection.settimeout(DEADLINE)
    connection.connect(("127.0.0.1", server.port))
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    connection.recv(1, socket.MSG_PEEK)
    return connection


def test_an_interrupted_upload_is_counted_no_more(start_server: StartServer) -> None:
    server = start_server()
    connection = begin(server, SIZE, SIZE - 1)
    until(lambda: held(server) == SIZE - 1)
    connection.close()
    until(lambda: held(server) == 0)


def test_the_connection_goes_on_after_a_counted_body(start_server: StartServer) -> None:
    server = start_server()
    with server.connect() as connection:
        request = b"POST /fast HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n" + b"x" * 300_000
        for _ in range(3):
            connection.sendall(request)
            assert read_until(connection, b"x" * 1_000).startswith(b"HTTP/1.1 202")
            rest = 300_000
            while rest > 0 and select.select([connection], [], [], 0.1)[0]:
                rest -= len(connection.recv(1 << 20))
    until(lambda: held(server) == 0)
