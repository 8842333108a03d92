"""The part without I/O, by example; tests/properties/test_protocol.py has any bytes."""

from __future__ import annotations

import pytest

from pushsvc.server.protocol import Bounds, Chunked, Request, Sized, find_head, framing, parse_head

BOUNDS = Bounds()
HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def read(data: bytes) -> Request:
    buffer = bytearray(data)
    end = find_head(buffer, 0, BOUNDS)
    assert end
    return parse_head(bytes(buffer[:end]), BOUNDS)


def test_a_head_is_found_where_it_ends_and_nowhere_else() -> None:
    data = bytearray(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /")
    for length in range(1, len(data) - 5):
        assert find_head(data[:length], length - 1, BOUNDS) == 0
    assert find_head(data, 0, BOUNDS) == len(data) - 5


@pytest.mark.parametrize("length", [0, 1, 5])
def test_a_body_of_a_length_leaves_the_rest(length: int) -> None:
    body, buffer = Sized(length), bytearray(b"0123456789")
    taken = b""
    while not body.done:
        taken += body.take(buffer, 2)
    assert (taken, bytes(buffer)) == (b"0123456789"[:length], b"0123456789"[length:])


def test_the_framing_is_that_of_the_head() -> None:
    assert isinstance(framing(read(HEAD)), Chunked)
    assert framing(read(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")).done
    assert not framing(read(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n")).done
