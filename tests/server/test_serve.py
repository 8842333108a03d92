"""``serve`` with a modified app, in a process that gevent has patched as it patches pushsvc's own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.raw_http import ServerProcess, parse_responses, read_all, read_until

PROGRAM = """
from gevent import monkey

monkey.patch_all()

import logging, socket, sys
from flask import Flask, Response, request

from pushsvc.broker import Broker
from pushsvc.server.serve import serve
from pushsvc.web import create_app

logging.basicConfig()
app = create_app(Broker(sys.argv[1], sys.argv[2]))


@app.before_request
def refuse():
    second = request.path.startswith("/v1/topics/") and "seen" in globals()
    globals()["seen"] = True
    return Response("refused", 418) if request.method == "POST" or second else None


@app.get("/socket")
def give():
    request.environ["pushsvc.handoff"](take)
    return Response(content_type="text/event-stream")


def take(sock, on_close, *, chunked):
    plain = type(sock) is monkey.get_original("socket", "socket") and type(sock) is not socket.socket
    text = f"{plain} {sock.gettimeout()}.".encode()
    end = bytes((13, 10))
    sock.send(end.join((b"%x" % len(text), text, b"0", end)) if chunked else text)
    sock.close()
    on_close()


listener = socket.create_server(("127.0.0.1", 0))
sys.stdout.write(f"{listener.getsockname()[1]}\\n")
sys.stdout.flush()
serve(app, listener, 5)
"""


@pytest.fixture
def server(redis_url: str, prefix: str, tmp_path: Path) -> Iterator[ServerProcess]:
    with (tmp_path / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, redis_url, prefix],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
        )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, (tmp_path / "log").read_text()
    running = ServerProcess(int(line), process, tmp_path / "log")
    yield running
    running.stop()


def test_an_added_before_request_refuses_a_publish_call(server: ServerProcess) -> None:
    [answer] = server.exchange(
        b"POST /v1/topics/t/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b'Content-Length: 7\r\nConnection: close\r\n\r\n{"n":1}'
    )
    assert (answer.status, answer.body) == (418, b"refused")


def test_an_added_before_request_refuses_a_repeated_stream_request(server: ServerProcess) -> None:
    head = b"GET /v1/topics/t/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
    with server.connect() as first:
        first.sendall(head)
        read_until(first, b": pushsvc\n")
        with server.connect() as second:
            second.sendall(head)
            read_until(second, b"refused")


def test_a_view_hands_over_an_unpatched_socket(server: ServerProcess) -> None:
    with server.connect() as connection:
        connection.sendall(b"GET /socket HTTP/1.1\r\nHost: localhost\r\n\r\n")
        [answer] = parse_responses(read_until(connection, b"0.0.") + read_all(connection))
    assert answer.body == b"True 0.0."
    assert "content-length" not in answer.headers


def test_sigterm_ends_the_stream_and_the_server(server: ServerProcess) -> None:
    with server.connect() as connection:
        connection.sendall(b"GET /v1/topics/t/events?format=sse HTTP/1.1\r\nHost: localhost\r\n\r\n")
        read_until(connection, b": pushsvc\n")
        server.process.terminate()
        assert b": the server is restarting\n" in read_all(connection)
    assert server.process.wait(30) == 0
    assert "Traceback" not in server.log
