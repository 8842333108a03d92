"""The bytes that the server accepts as a request, sent in one piece and byte by byte."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.raw_http import ServerProcess, parse_responses

HOST = b"Host: localhost\r\n"
NEXT = b"GET /next HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def get(*fields: bytes, target: bytes = b"/", version: bytes = b"1.1", method: bytes = b"GET") -> bytes:
    return method + b" " + target + b" HTTP/" + version + b"\r\n" + b"".join(f + b"\r\n" for f in fields) + b"\r\n"


def post(*fields: bytes, body: bytes = b"", **line: bytes) -> bytes:
    return get(b"Host: localhost", *fields, method=b"POST", **line) + body


def chunked(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked", body=body)


H = b"Host: localhost"

ACCEPTED: dict[str, tuple[bytes, dict[str, str]]] = {
    "plain": (get(H), {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "HTTP_HOST": "localhost", "body": ""}),
    "empty line before": (b"\r\n" + get(H), {"PATH_INFO": "/"}),
    "query": (get(H, target=b"/a?b=c&d=%20?"), {"PATH_INFO": "/a", "QUERY_STRING": "b=c&d=%20?"}),
    "percent": (get(H, target=b"/a%2Fb%C3%A9"), {"PATH_INFO": "/a/b\xc3\xa9"}),
    "double slash": (get(H, target=b"//evil/x"), {"PATH_INFO": "//evil/x"}),
    "absolute target": (get(H, target=b"http://localhost/a?b"), {"PATH_INFO": "/a", "QUERY_STRING": "b"}),
    "absolute target without path": (get(H, target=b"http://localhost?b"), {"PATH_INFO": "/", "QUERY_STRING": "b"}),
    "asterisk": (get(H, target=b"*", method=b"OPTIONS"), {"PATH_INFO": "*"}),
    "spaces around a value": (get(H, b"A:  \t b c\t "), {"HTTP_A": "b c"}),
    "latin-1 value": (get(H, b"A: \xe9"), {"HTTP_A": "\xe9"}),
    "empty value": (get(H, b"A:"), {"HTTP_A": ""}),
    "repeated field": (get(H, b"A: b", b"a: c"), {"HTTP_A": "b,c"}),
    "repeated cookie": (get(H, b"Cookie: a=1", b"Cookie: b=2"), {"HTTP_COOKIE": "a=1; b=2"}),
    "underscore": (get(H, b"X-A: real", b"X_A: forged"), {"HTTP_X_A": "real"}),
    "underscore first": (get(H, b"X_A: forged", b"X-A: real"), {"HTTP_X_A": "real"}),
    "underscore in a length": (get(H, b"Content_Length: 5"), {"body": ""}),
    "length": (post(b"Content-Length: 5", body=b"hello"), {"body": "hello", "CONTENT_LENGTH": "5"}),
    "length 0": (post(b"Content-Length: 0"), {"body": ""}),
    "no length": (post(), {"body": ""}),
    "GET with a body": (get(H, b"Content-Length: 2") + b"hi", {"body": "hi", "REQUEST_METHOD": "GET"}),
    "body like a request": (post(b"Content-Length: %d" % len(NEXT), body=NEXT), {"body": NEXT.decode()}),
    "chunks": (chunked(b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n"), {"body": "abc0123456789"}),
    "chunk extension": (chunked(b'3;a=b;c="d"\r\nabc\r\n0;x\r\n\r\n'), {"body": "abc"}),
    "trailers": (chunked(b"3\r\nabc\r\n0\r\nX-A: b\r\nX-B:\r\n\r\n"), {"body": "abc", "HTTP_HOST": "localhost"}),
    "CHUNKED": (post(b"Transfer-Encoding: Chunked", body=b"1\r\na\r\n0\r\n\r\n"), {"body": "a"}),
    "hosts": (get(b"Host: [::1]:8000"), {"HTTP_HOST": "[::1]:8000"}),
    "expectation in HTTP/1.1": (get(H, b"Expect: 100-Continue"), {"body": ""}),
    "most fields": (get(H, *[b"A: b"] * 99), {"HTTP_A": ",".join("b" * 99)}),
    "longest target": (get(H, target=b"/" + b"a" * 8191), {"PATH_INFO": "/" + "a" * 8191}),
}  # fmt: skip

REFUSED: dict[str, tuple[bytes, int]] = {
    "bare LF": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "one bare LF": (b"GET / HTTP/1.1\r\nHost: a\nA: b\r\n\r\n", 400),
    "bare CR": (get(H, b"A: b\rc"), 400),
    "CR CR LF": (b"GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", 400),
    "NUL": (get(H, b"A: b\0c"), 400),
    "control character": (get(H, b"A: b\x01"), 400),
    "folded field": (get(H, b"A: b", b" c"), 400),
    "folded first field": (get(b" A: b", H), 400),
    "space before the colon": (get(H, b"A : b"), 400),
    "no colon": (get(H, b"A"), 400),
    "no name": (get(H, b": b"), 400),
    "name with a slash": (get(H, b"A/B: b"), 400),
    "name with an umlaut": (get(H, b"\xc4: b"), 400),
    "two spaces in the line": (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "space at the end of the line": (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400),
    "tab in the line": (b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "no version": (b"GET /\r\n\r\n", 400),
    "HTTP/0.9": (get(H, version=b"0.9"), 505),
    "HTTP/1.2": (get(H, version=b"1.2"), 505),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 40, 400),
    "RTSP": (b"DESCRIBE / RTSP/1.0\r\n\r\n", 400),
    "unknown method": (get(H, method=b"BREW"), 501),
    "method in lower case": (get(H, method=b"get"), 501),
    "CONNECT": (get(H, target=b"localhost:80", method=b"CONNECT"), 501),
    "authority as target": (get(H, target=b"localhost:80"), 400),
    "asterisk for GET": (get(H, target=b"*"), 400),
    "fragment": (get(H, target=b"/a#b"), 400),
    "bytes in the target": (get(H, target=b"/\xc3\xa9"), 400),
    "user in the target": (get(H, target=b"http://a@localhost/"), 400),
    "other scheme": (get(H, target=b"ftp://localhost/"), 400),
    "target of another host": (get(H, target=b"http://other/"), 400),
    "no Host": (get(), 400),
    "two Hosts": (get(H, H), 400),
    "two different Hosts": (get(H, b"Host: other"), 400),
    "Host with a path": (get(b"Host: a/b"), 400),
    "Host with a user": (get(b"Host: a@b"), 400),
    "Hosts in one": (get(b"Host: a, b"), 400),
    "two lengths": (post(b"Content-Length: 5", b"Content-Length: 6", body=b"hello"), 400),
    "two equal lengths": (post(b"Content-Length: 5", b"Content-Length: 5", body=b"hello"), 400),
    "lengths in one": (post(b"Content-Length: 5, 5", body=b"hello"), 400),
    "signed length": (post(b"Content-Length: +5", body=b"hello"), 400),
    "negative length": (post(b"Content-Length: -5"), 400),
    "hexadecimal length": (post(b"Content-Length: 0x5", body=b"hello"), 400),
    "empty length": (post(b"Content-Length:"), 400),
    "endless length": (post(b"Content-Length: " + b"9" * 30), 400),
    "length and chunks": (post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"), 400),
    "chunks and length": (post(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n"), 400),
    "chunks in HTTP/1.0": (post(b"Transfer-Encoding: chunked", version=b"1.0", body=b"0\r\n\r\n"), 400),
    "chunks twice": (post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"), 400),
    "gzip, chunked": (post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"), 501),
    ", chunked": (post(b"Transfer-Encoding: ,chunked", body=b"0\r\n\r\n"), 501),
    "gzip": (post(b"Transfer-Encoding: gzip"), 400),
    "xchunked": (post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"), 400),
    "vertical tab before chunked": (post(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"), 400),
    "identity": (post(b"Transfer-Encoding: identity"), 400),
    "no chunk size": (chunked(b"\r\nabc\r\n"), 400),
    "chunk size of words": (chunked(b"xyz\r\nabc\r\n"), 400),
    "signed chunk size": (chunked(b"+3\r\nabc\r\n0\r\n\r\n"), 400),
    "chunk size with 0x": (chunked(b"0x3\r\nabc\r\n0\r\n\r\n"), 400),
    "chunk size with an underscore": (chunked(b"1_0\r\n0123456789abcdef\r\n0\r\n\r\n"), 400),
    "chunk size with a space": (chunked(b"3 \r\nabc\r\n0\r\n\r\n"), 400),
    "endless chunk size": (chunked(b"f" * 17 + b"\r\nabc"), 400),
    "chunk longer than its size": (chunked(b"3\r\nabcd\r\n0\r\n\r\n"), 400),
    "chunk with bare LF": (chunked(b"3\nabc\n0\n\n"), 400),
    "chunk end with bare LF": (chunked(b"3\r\nabc\n0\r\n\r\n"), 400),
    "bad trailer": (chunked(b"0\r\nno field\r\n\r\n"), 400),
    "too many trailers": (chunked(b"0\r\n" + b"A: b\r\n" * 3_000), 400),
    "endless extension": (chunked(b"3;" + b"a" * 10_000), 400),
    "extension without a name": (chunked(b"3;\r\nabc\r\n0\r\n\r\n"), 400),
    "extension without a name after the last chunk": (chunked(b"3\r\nabc\r\n0;\r\n\r\n"), 400),
    "extension without a value": (chunked(b"3;a=\r\nabc\r\n0\r\n\r\n"), 400),
    "too many extensions": (chunked(b"1;%b\r\na\r\n" % (b"x" * 1_000) * 10), 400),
    "long target": (get(H, target=b"/" + b"a" * 8_192), 414),
    "endless target": (b"GET /" + b"a" * 9_000, 414),
    "many fields": (get(H, *[b"A: b"] * 100), 431),
    "large head": (get(H, b"A: " + b"b" * 40_000), 431),
    "endless head": (b"GET / HTTP/1.1\r\nA: " + b"b" * 40_000, 431),
    "unknown expectation": (post(b"Expect: tea", b"Content-Length: 1", body=b"x"), 417),
}  # fmt: skip


def is_long(request: bytes) -> bool:
    return len(request) > 3_000


@pytest.mark.parametrize("name", ACCEPTED)
def test_the_request_is_accepted(server: ServerProcess, name: str) -> None:
    request, expected = ACCEPTED[name]
    for step in (0, 997 if is_long(request) else 1):
        first, second = server.exchange(request + NEXT, step=step)
        assert (first.status, second.status) == (200, 200)
        received = json.loads(first.body)
        assert {key: received[key] for key in expected} == expected
        assert "connection" not in first.headers
        assert json.loads(second.body)["PATH_INFO"] == "/next"
        assert second.headers["connection"] == "close"


@pytest.mark.parametrize("name", REFUSED)
def test_the_request_is_refused_and_ends_the_connection(server: ServerProcess, name: str) -> None:
    request, status = REFUSED[name]
    for step in (0, 997 if is_long(request) else 1):
        before, refusal = server.exchange(NEXT.replace(b"close", b"x") + request + NEXT, step=step)
        assert (before.status, refusal.status) == (200, status)
        assert refusal.headers["connection"] == "close"
        assert refusal.headers["content-type"] == "application/problem+json"
        problem = json.loads(refusal.body)
        assert problem["status"] == status
        assert problem["type"].startswith("urn:pushsvc:problem:")
        assert problem["detail"]


CONNECTIONS: dict[str, tuple[bytes, tuple[str, ...], list[int]]] = {
    "HTTP/1.0 closes": (get(H, version=b"1.0") + NEXT, (), [200]),
    "HTTP/1.0 needs no Host": (get(version=b"1.0"), (), [200]),
    "HTTP/1.0 kept alive": (get(H, b"Connection: Keep-Alive", version=b"1.0") + NEXT, (), [200, 200]),
    "close in a list": (get(H, b"Connection: x, CLOSE") + NEXT, (), [200]),
    "five in a row": (get(H) * 4 + NEXT, (), [200] * 5),
    "HEAD": (get(H, method=b"HEAD") + NEXT, ("HEAD",), [200, 200]),
    "an upgrade is ignored": (get(H, b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c") + NEXT, (), [200]),
    "an upgrade with a body": (
        post(b"Connection: Upgrade", b"Upgrade: websocket", b"Content-Length: 2", body=b"hi") + NEXT, (), [200],
    ),
    "an unread body": (post(b"Content-Length: 5", target=b"/unread", body=b"hello") + NEXT, (), [200, 200]),
    "unread chunks": (
        post(b"Transfer-Encoding: chunked", target=b"/unread", body=b"3\r\nabc\r\n0\r\n\r\n") + NEXT, (), [200, 200],
    ),
    "unread bad chunks": (
        post(b"Transfer-Encoding: chunked", target=b"/unread", body=b"3\r\nabcd\r\n0\r\n\r\n") + NEXT, (), [200],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONNECTIONS)
def test_the_connection_continues_or_ends(server: ServerProcess, name: str) -> None:
    data, methods, statuses = CONNECTIONS[name]
    answers = server.exchange(data, *methods)
    assert [answer.status for answer in answers] == statuses
    assert answers[-1].headers["connection"] == "close"


def test_an_answer_to_http_10_names_keep_alive(server: ServerProcess) -> None:
    first, _ = server.exchange(get(H, b"Connection: keep-alive", version=b"1.0") + NEXT)
    assert first.headers["connection"] == "keep-alive"


def test_continue_is_sent_when_the_app_reads_the_body(connect: Any) -> None:
    connection = connect()
    connection.sendall(post(b"Content-Length: 5", b"Expect: 100-continue", b"Connection: close"))
    assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.sendall(b"hello")
    data = b""
    while piece := connection.recv(65_536):
        data += piece
    [answer] = parse_responses(data)
    assert json.loads(answer.body)["body"] == "hello"


def test_continue_is_not_sent_for_an_unread_body(server: ServerProcess) -> None:
    request = post(b"Content-Length: 5", b"Expect: 100-continue", target=b"/unread")
    [answer] = server.exchange(request)
    assert answer.status == 200
    assert answer.headers["connection"] == "close"


def test_continue_is_not_sent_if_the_body_has_arrived(server: ServerProcess) -> None:
    answers = server.exchange(post(b"Content-Length: 5", b"Expect: 100-continue", body=b"hello") + NEXT)
    assert [answer.status for answer in answers] == [200, 200]
