"""Heads and bodies without I/O, by example; tests/properties/test_http_parsing.py tries arbitrary bytes."""

from __future__ import annotations

import pytest

from pushsvc.server.body import ChunkedBody, SizedBody, framing_of
from pushsvc.server.request import HeadLimits, Request, find_head, parse_head

LIMITS = HeadLimits()
HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def read(data: bytes) -> Request:
    buffer = bytearray(data)
    end = find_head(buffer, 0, LIMITS)
    assert end
    return parse_head(bytes(buffer[:end]), LIMITS)


def test_a_head_ends_at_its_empty_line() -> None:
    data = bytearray(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /")
    for length in range(1, len(data) - 5):
        assert find_head(data[:length], length - 1, LIMITS) == 0
    assert find_head(data, 0, LIMITS) == len(data) - 5


@pytest.mark.parametrize("length", [0, 1, 5])
def test_a_sized_body_leaves_the_bytes_after_it(length: int) -> None:
    body, buffer = SizedBody(length), bytearray(b"0123456789")
    taken = b""
    while not body.done:
        taken += body.take(buffer, 2)
    assert (taken, bytes(buffer)) == (b"0123456789"[:length], b"0123456789"[length:])


def test_the_head_decides_the_framing() -> None:
    assert isinstance(framing_of(read(HEAD)), ChunkedBody)
    assert framing_of(read(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")).done
    assert not framing_of(read(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n")).done
