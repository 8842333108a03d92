"""``serve`` with an app that somebody has added to, in a patched process as pushsvc's own are."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.raw import Site, read_all, read_until, split_answers

PROGRAM = """
from gevent import monkey

monkey.patch_all()

import logging, socket, sys
from flask import Flask, Response, request

from pushsvc.broker import Broker
from pushsvc.server.serve import serve
from pushsvc.server.fastpath.publish import Lane
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


def take(sock, on_close):
    plain = type(sock) is monkey.get_original("socket", "socket") and type(sock) is not socket.socket
    sock.send(f"{plain} {sock.gettimeout()}.".encode())
    sock.close()
    on_close()


listener = socket.create_server(("127.0.0.1", 0))
sys.stdout.write(f"{listener.getsockname()[1]}\\n")
sys.stdout.flush()
serve(app, listener, 5)
"""


@pytest.fixture
def site(redis_url: str, prefix: str, tmp_path: Path) -> Iterator[Site]:
    with (tmp_path / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, redis_url, prefix],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
        )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, (tmp_path / "log").read_text()
    running = Site(int(line), process, tmp_path / "log")
    yield running
    running.stop()


def test_what_was_added_to_an_app_is_obeyed_by_plain_publish_calls_too(site: Site) -> None:
    [answer] = site.exchange(
        b"POST /v1/topics/t/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b'Content-Length: 7\r\nConnection: close\r\n\r\n{"n":1}'
    )
    assert (answer.status, answer.body) == (418, b"refused")


def test_and_by_a_stream_that_was_granted_before(site: Site) -> None:
    head = b"GET /v1/topics/t/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
    with site.connect() as first:
        first.sendall(head)
        read_until(first, b": pushsvc\n")
        with site.connect() as second:
            second.sendall(head)
            read_until(second, b"refused")


def test_a_view_gives_a_plain_socket_away(site: Site) -> None:
    with site.connect() as connection:
        connection.sendall(b"GET /socket HTTP/1.1\r\nHost: localhost\r\n\r\n")
        [answer] = split_answers(read_until(connection, b"0.0.") + read_all(connection))
    assert answer.body == b"True 0.0."
    assert "content-length" not in answer.headers


def test_it_ends_in_order(site: Site) -> None:
    with site.connect() as connection:
        connection.sendall(b"GET /v1/topics/t/events?format=sse HTTP/1.1\r\nHost: localhost\r\n\r\n")
        read_until(connection, b": pushsvc\n")
        site.process.terminate()
        assert b": the server is restarting\n" in read_all(connection)
    assert site.process.wait(30) == 0
    assert "Traceback" not in site.log
