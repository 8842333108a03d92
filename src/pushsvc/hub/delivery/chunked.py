"""The chunked transfer coding of HTTP/1.1 (RFC 9112, section 7.1).

Without it a response of unknown length ends with the connection, and clients that fill a buffer before they look at it
hold events back. A chunk tells them where its bytes end.
"""

LAST_CHUNK = b"0\r\n\r\n"


def frame(*pieces: bytes | memoryview) -> bytes:
    """Return some bytes as one chunk; no bytes make no chunk, as an empty one would end the response."""
    size = sum(map(len, pieces))
    return b"".join((b"%x\r\n" % size, *pieces, b"\r\n")) if size else b""


def unframe(chunk: bytes) -> memoryview:
    """Return the bytes of one chunk, without copying them."""
    return memoryview(chunk)[chunk.find(b"\n") + 1 : -2]
