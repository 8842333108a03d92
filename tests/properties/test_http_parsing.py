"""The parser returns the same request however its bytes are split; llhttp gives a second opinion."""

from __future__ import annotations

from itertools import pairwise

import httptools
from hypothesis import example, given
from hypothesis import strategies as st

from pushsvc.server.body import ChunkedBody
from pushsvc.server.request import BadRequest, HeadLimits, find_head, parse_head

LIMITS = HeadLimits()
HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    try:
        end = find_head(bytearray(data), 0, LIMITS)
        if end:
            parse_head(data[:end], LIMITS)
    except BadRequest as error:
        refused = error
    else:
        return
    assert refused.status in (400, 414, 431, 501, 505)
    assert refused.detail


def feed(data: bytes, cuts: list[int]) -> tuple[bytes, bytes, str]:
    """Feed ``data`` split at ``cuts``; return the body, the bytes after it and the outcome."""
    body, buffer, chunks = b"", bytearray(), ChunkedBody()
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    try:
        for start, end in pairwise(edges):
            buffer += data[start:end]
            while not chunks.done and (piece := chunks.take(buffer, 7)):
                body += piece
    except BadRequest:
        return body, b"", "refused"
    return body, bytes(buffer), "done" if chunks.done else "more"


class LlhttpBody:
    """The body that llhttp parses."""

    def __init__(self) -> None:
        self.body, self.done = b"", False

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.done = True


chunk = st.binary(min_size=1, max_size=30).map(lambda data: b"%x\r\n%b\r\n" % (len(data), data))


bodies = st.lists(chunk, max_size=5).map(lambda chunks: b"".join(chunks) + b"0\r\n\r\n")


@given(bodies, st.binary(max_size=20), st.lists(st.integers(0, 500), max_size=8))
def test_chunks_are_joined_however_they_are_split(data: bytes, next_bytes: bytes, cuts: list[int]) -> None:
    expected = LlhttpBody()
    httptools.HttpRequestParser(expected).feed_data(HEAD + data)
    assert expected.done
    assert feed(data + next_bytes, cuts) == (expected.body, next_bytes, "done")


@given(bodies, st.integers(0, 200), st.sampled_from([b"", b"\r", b"\n", b"0", b"g", b" ", b";", b"\0"]), st.booleans())
@example(b"0\r\n\r\n", 1, b";", False)
def test_what_llhttp_refuses_is_refused(data: bytes, place: int, damage: bytes, replaces: bool) -> None:
    place %= len(data)
    data = data[:place] + damage + data[place + replaces :]
    expected = LlhttpBody()
    try:
        httptools.HttpRequestParser(expected).feed_data(HEAD + data)
        outcome = "done" if expected.done else "more"
    except httptools.HttpParserError:
        outcome = "done" if expected.done else "refused"  # the error may be in the bytes after the body
    body, _, ours = feed(data, [])
    if outcome == "done":
        assert ours == "refused" or body == expected.body
    elif outcome == "refused":
        assert ours != "done"
