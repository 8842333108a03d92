"""The headers of every route's answers: one date, and no header twice."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from pushsvc.broker.broker import Broker
from pushsvc.web import app as web_app
from pushsvc.web.app import create_app
from support.raw_http import read_until
from support.stack import Stack
from support.waiting import DEADLINE, until

STATIC = Path(web_app.__file__).parent / "static"
REPEATABLE = {"vary", "link", "set-cookie"}


@pytest.fixture
def targets(broker: Broker, topic: str) -> list[str]:
    """Targets of all routes, with those that answer a stream in both ways."""
    found = []
    for rule in create_app(broker).url_map.iter_rules():
        path = rule.rule.replace("<topic>", topic).replace("<name>", "low").replace("<path:filename>", "page.js")
        path = path.replace("<path:name>", "$1")
        suffixes = re.search(r"<any\((.*)\):suffix>", path)
        found += [path.replace(suffixes[0], suffix) for suffix in suffixes[1].split(", ")] if suffixes else [path]
    assert not [target for target in found if "<" in target]
    streams = ["/v1/topics", f"/v1/topics/{topic}/events", f"/v1/topics/{topic}/stats", f"/v1/stream?events={topic}"]
    streams.append(f"/v1/stream?sub=events/{topic}")
    return [*found, *(f"{path}{'&' if '?' in path else '?'}format=sse" for path in streams), "/nothing"]


def head(server: Stack, method: str, target: str, *fields: str) -> tuple[int, list[tuple[str, str]]]:
    """Return the status and the headers as they are on the wire."""
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close", *fields]
    with socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        first, *received = read_until(connection, b"\r\n\r\n").partition(b"\r\n\r\n")[0].decode().split("\r\n")
    pairs = [line.split(": ", 1) for line in received]
    return int(first.split(" ")[1]), [(name.lower(), value) for name, value in pairs]


def test_every_answer_has_one_date_and_no_header_twice(server: Stack, topic: str, targets: list[str]) -> None:
    server.post(topic, [{"rating": n} for n in range(3)])
    for target in [*targets, f"/v1/topics/{topic}/events?limit=1"]:
        for method in ("GET", "HEAD", "POST", "OPTIONS"):
            status, headers = head(server, method, target)
            check(method, target, status, headers)
            if "etag" in dict(headers):
                until(lambda method=method, target=target: is_unmodified(server, method, target))


def is_unmodified(server: Stack, method: str, target: str) -> bool:
    """Return whether an answer has not changed since the one before: a series ends at the present."""
    _, headers = head(server, method, target)
    status, headers = head(server, method, target, f"If-None-Match: {dict(headers)['etag']}")
    check(method, target, status, headers)
    return status == 304


def check(method: str, target: str, status: int, headers: list[tuple[str, str]]) -> None:
    names = [name for name, _ in headers]
    assert names.count("date") == 1, (method, target, status, headers)
    repeated = {name for name in names if names.count(name) > 1}
    assert repeated <= REPEATABLE, (method, target, status, headers)


def test_every_file_of_the_page_has_one_date(shared_server: Stack) -> None:
    for path in filter(Path.is_file, STATIC.rglob("*")):
        status, headers = head(shared_server, "GET", f"/static/{path.relative_to(STATIC)}")
        assert status == 200
        check("GET", path.name, status, headers)
