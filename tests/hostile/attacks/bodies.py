"""Bodies of 8 MB that cost a parser most per byte."""

from __future__ import annotations

from hostile.calls import Answer, post

NAME = "costly bodies of 8 MB"
TOPIC = "hostile-bodies"
SIZE = 7_900_000
JSON, NDJSON, CSV = "application/json", "application/x-ndjson", "text/csv"
EVENT = b'{"key":"k12345","rating":4.5,"price":12.25,"note":"a text of a typical length"},'


def fill(begin: bytes, piece: bytes, end: bytes, size: int) -> bytes:
    return begin + piece * ((size - len(begin) - len(end)) // len(piece)) + end


def bodies(size: int = SIZE) -> list[tuple[bytes, str]]:
    wide = b",".join(b'"f%d":"%d"' % (name, name) for name in range(60))
    return [
        (fill(b"[", b"{},", b"{}]", size), JSON),
        (fill(b'{"a":[', b"{},", b"{}]}", size), JSON),
        (b"[" + b",".join([b'{"a":[' + b"{}," * 90_000 + b"{}]}"] * (size // 300_000)) + b"]", JSON),
        (fill(b"[", b"1,", b"1", size), JSON),
        (fill(b"[", b'","', b"]", size), JSON),
        (fill(b"[", b'{"a":"', b"", size), JSON),
        (fill(b"", b"[", b"", size), JSON),
        (fill(b"[", EVENT, b'{"a":NaN}]', min(size, len(EVENT) * 9_000)), JSON),
        (fill(b"[", b"{" + wide + b"},", b"{}]", min(size, (len(wide) + 3) * 9_000)), JSON),
        (fill(b'{"a":"', b"\\u00e9", b'"}', size), JSON),
        (fill(b"{}\n", b"\n", b"{}", size), NDJSON),
        (fill(b"", b"{}\n", b"", size), NDJSON),
        (fill(b"a\n", b"\n", b"1", size), CSV),
        (fill(b",".join(b"c%d" % column for column in range(900)) + b"\n", b"a," * 899 + b"a\n", b"", size), CSV),
        (fill(b"a\n", b"7\n", b"", size), CSV),
        (fill(b"a,b\n", b'"x\n', b"", size), CSV),
    ]


def attack(url: str, size: int = SIZE) -> list[Answer]:
    return [post(url, TOPIC, body, media_type) for body, media_type in bodies(size)]
