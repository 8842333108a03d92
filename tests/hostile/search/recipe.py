"""Requests as short texts: what a search finds can be printed, and sent again."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

import jwt

from hostile.calls import post

NUMBER = "~~"
"""Stands for the number of the repetition."""

CURSOR = "~cursor~"
"""Stands for a cursor that is valid for all topics of the server."""

Text = str | Sequence[Any]
"""A text, or a list of texts. A list whose last member is a number stands that many times."""

QUIET, LONGEST, MOST = 0.3, 3.0, 20_000_000
"""Seconds of silence after which a stream is closed, seconds after which it is closed in any case, and its bytes."""


def expand(text: Text) -> str:
    """Return the text that a recipe stands for."""
    if isinstance(text, str):
        return text
    if not text or not isinstance(text[-1], int):
        return "".join(map(expand, text))
    once = "".join(map(expand, text[:-1]))
    if NUMBER not in once:
        return once * text[-1]
    return "".join([once.replace(NUMBER, str(number)) for number in range(text[-1])])


EVENT = b'{"key":"k1","user":"u1","n":1,"note":"a"}'


@dataclass(frozen=True)
class Recipe:
    """A request. ``publish`` is a topic to which an event is published while the answer is a stream. The header
    ``claims`` is sent as a signed token."""

    method: str
    target: Text
    headers: tuple[tuple[str, Text], ...] = ()
    body: Text | None = None
    publish: str = ""

    def __str__(self) -> str:
        return json.dumps([self.method, self.target, self.headers, self.body, self.publish], separators=(",", ":"))

    @classmethod
    def parse(cls, text: str) -> Self:
        method, target, headers, body, publish = json.loads(text)
        return cls(method, target, tuple((name, value) for name, value in headers), body, publish)

    @property
    def form(self) -> str:
        """What requests have in common that differ only in values and lengths: path, parameters and headers."""
        path, _, query = expand(self.target).partition("?")
        names = sorted({pair.split("=")[0] for pair in query.split("&")})
        return f"{self.method} {path} {names} {[name for name, _ in self.headers]} {str(self.body)[:12]}"


@dataclass(frozen=True)
class Reply:
    """``status`` is 0 if the connection broke."""

    status: int
    sent: int
    received: int


@dataclass(frozen=True)
class Sender:
    """Sends requests to one server. ``key`` signs tokens."""

    url: str
    key: str = ""
    cursor: str = ""

    def bytes_of(self, recipe: Recipe) -> bytes:
        """Return the request as it is sent."""
        lines = [
            f"{recipe.method} {expand(recipe.target)} HTTP/1.1",
            f"Host: {urlsplit(self.url).netloc}",
            "Connection: close",
        ]
        for name, value in recipe.headers:
            if name == "claims":
                now = int(time.time())
                claims = json.loads(expand(value)) | {"iat": now, "exp": now + 3_600}
                lines.append(f"Authorization: Bearer {jwt.encode(claims, self.key, 'HS256')}")
            else:
                lines.append(f"{name}: {expand(value)}")
        body = b"" if recipe.body is None else expand(recipe.body).encode()
        if recipe.body is not None:
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join([*lines, "", ""]).replace(CURSOR, self.cursor)
        return head.encode() + body

    def send(self, recipe: Recipe, data: bytes) -> Reply:
        """Send a request and read its answer, or what a stream sends until it is quiet."""
        place = urlsplit(self.url)
        begun, total, head = time.monotonic(), 0, b""
        try:
            with socket.create_connection((place.hostname or "", place.port or 80), 60) as sock:
                sock.sendall(data)
                while piece := sock.recv(1 << 18):
                    if not total:
                        head = piece[:1_000]
                        if b"text/event-stream" in head:
                            sock.settimeout(QUIET)
                            if recipe.publish:
                                post(self.url, recipe.publish, EVENT)
                    total += len(piece)
                    if total > MOST or (sock.gettimeout() == QUIET and time.monotonic() - begun > LONGEST):
                        break
        except OSError:
            pass  # the stream is quiet, or the connection broke
        return Reply(int(head[9:12] or 0), len(data), total)
