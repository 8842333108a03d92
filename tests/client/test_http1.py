"""Answers of HTTP/1.1 in pieces, as the clients read them."""

from __future__ import annotations

import pytest

from pushsvc_client.http1 import Answer, encode_request

SIZED = b"HTTP/1.1 202 Accepted\r\nContent-Length: 5\r\nX-A: b\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n"
INFORMED = b"HTTP/1.1 100 Continue\r\nX-Early: 1\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" + SIZED


@pytest.mark.parametrize("size", [1, 2, 7, 1_000])
@pytest.mark.parametrize("data", [SIZED, CHUNKED, INFORMED])
def test_an_answer_is_read_from_pieces_of_any_size(data, size):
    answer = Answer()
    body = b"".join(answer.feed(data[at : at + size]) for at in range(0, len(data), size))
    assert (body, answer.ended, answer.reusable) == (b"hello", True, True)
    assert answer.status in (200, 202)
    assert "x-early" not in answer.headers


def test_an_answer_without_a_length_ends_with_its_connection():
    answer = Answer()
    assert answer.feed(b"HTTP/1.1 200 Fine\r\n\r\nhel") + answer.feed(b"lo") == b"hello"
    assert not answer.ended
    assert answer.feed(b"") == b""
    assert (answer.ended, answer.reusable, answer.reason) == (True, False, "Fine")


@pytest.mark.parametrize("data", [b"", SIZED[:-1], CHUNKED[:-1], CHUNKED[:-12], SIZED[:20], INFORMED[:50]])
def test_an_answer_that_is_cut_raises(data):
    answer = Answer()
    if data:
        answer.feed(data)
    with pytest.raises(OSError, match="closed"):
        answer.feed(b"")


UPGRADE = b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
ENDLESS = b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000


@pytest.mark.parametrize("data", [b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\nA\x00: 1\r\n\r\n", UPGRADE, ENDLESS])
def test_what_is_no_answer_raises(data):
    answer = Answer()
    with pytest.raises(OSError, match="answer"):
        list(map(answer.feed, [data[at : at + 65_536] for at in range(0, len(data), 65_536)]))


@pytest.mark.parametrize(
    ("data", "reusable"),
    [
        (SIZED, True),
        (SIZED + SIZED, False),
        (SIZED.replace(b"X-A: b", b"Connection: close"), False),
        (SIZED.replace(b"X-A: b", b"Connection: close") + b"more", False),
        (SIZED.replace(b"/1.1", b"/1.0"), False),
    ],
)
def test_a_connection_is_reused_if_nothing_but_the_answer_came(data, reusable):
    answer = Answer()
    assert answer.feed(data) == b"hello"
    assert (answer.ended, answer.reusable) == (True, reusable)


def test_a_request_has_its_length_and_no_second_request():
    assert (
        encode_request("POST", "/x", {"Host": "h"}, b"ab")
        == b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab"
    )
    for wrong in ("a\r\nX: b", "a\nb", "\0", "€"):
        with pytest.raises(ValueError, match="Last-Event-ID"):
            encode_request("GET", "/x", {"Last-Event-ID": wrong}, None)
    for wrong in ("/a b", "/\r\nX: b", "", "x", "/ä"):
        with pytest.raises(ValueError, match="is no path"):
            encode_request("GET", wrong, {}, None)
