"""However the bytes of a request are cut, the same comes out; llhttp is asked for a second opinion."""

from __future__ import annotations

from itertools import pairwise

import httptools
from hypothesis import example, given
from hypothesis import strategies as st

from pushsvc.server.protocol import BadRequest, Bounds, Chunked, find_head, parse_head

BOUNDS = Bounds()
HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        end = find_head(bytearray(data), 0, BOUNDS)
        if end:
            parse_head(data[:end], BOUNDS)
    except BadRequest as error:
        refused = error
    else:
        return
    assert refused.status in (400, 414, 431, 501, 505)
    assert refused.detail


def feed(data: bytes, cuts: list[int]) -> tuple[bytes, bytes, str]:
    """Return body, rest and how it went."""
    body, buffer, chunks = b"", bytearray(), Chunked()
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    try:
        for start, end in pairwise(edges):
            buffer += data[start:end]
            while not chunks.done and (piece := chunks.take(buffer, 7)):
                body += piece
    except BadRequest:
        return body, b"", "refused"
    return body, bytes(buffer), "done" if chunks.done else "more"


class Seen:
    def __init__(self) -> None:
        self.body, self.done = b"", False

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.done = True


chunk = st.binary(min_size=1, max_size=30).map(lambda data: b"%x\r\n%b\r\n" % (len(data), data))


bodies = st.lists(chunk, max_size=5).map(lambda chunks: b"".join(chunks) + b"0\r\n\r\n")


@given(bodies, st.binary(max_size=20), st.lists(st.integers(0, 500), max_size=8))
def test_chunks_are_put_together_however_they_are_cut(data: bytes, behind: bytes, cuts: list[int]) -> None:
    seen = Seen()
    httptools.HttpRequestParser(seen).feed_data(HEAD + data)
    assert seen.done
    body, rest, how = feed(data + behind, cuts)
    assert (body, rest, how) == (seen.body, behind, "done")


@given(bodies, st.integers(0, 200), st.sampled_from([b"", b"\r", b"\n", b"0", b"g", b" ", b";", b"\0"]), st.booleans())
@example(b"0\r\n\r\n", 1, b";", False)
def test_what_llhttp_refuses_is_refused(data: bytes, place: int, damage: bytes, replaces: bool) -> None:
    place %= len(data)
    data = data[:place] + damage + data[place + replaces :]
    seen = Seen()
    try:
        httptools.HttpRequestParser(seen).feed_data(HEAD + data)
        how = "done" if seen.done else "more"
    except httptools.HttpParserError:
        how = "done" if seen.done else "refused"  # what comes behind the body is no request
    mine = feed(data, [])
    if how == "done":
        assert mine[2] == "refused" or mine[0] == seen.body
    elif how == "refused":
        assert mine[2] != "done"
