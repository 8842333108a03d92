"""HTTP responses as bytes."""

from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from time import time

from pushsvc.web.responses import HttpResponse

_STATUS_LINES = {status.value: f"{status.value} {status.phrase.upper()}" for status in HTTPStatus}


@lru_cache(1)
def _date(second: int) -> str:
    return f"Date: {formatdate(second, usegmt=True)}\r\n"


def complete_head(head: str) -> bytes:
    """Return a status line and headers with their date and the empty line."""
    return f"{head}{_date(int(time()))}\r\n".encode("latin-1")


def encode_head(status: int, headers: list[tuple[str, str]], *, keep_alive: bool, version: int = 1) -> bytes:
    """Return the head without Content-Length and empty line. HTTP/1.0 clients need an explicit keep-alive."""
    text = "".join([f"{name}: {value}\r\n" for name, value in headers])
    connection = ("" if version else "Connection: keep-alive\r\n") if keep_alive else "Connection: close\r\n"
    return f"HTTP/1.1 {_STATUS_LINES[status]}\r\n{text}{connection}{_date(int(time()))}".encode("latin-1")


def add_body(head: bytes, body: bytes) -> bytes:
    """Return the response of a head made by ``encode_head`` and a body."""
    return b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body)


def encode(response: HttpResponse, *, keep_alive: bool, version: int = 1) -> bytes:
    status, headers, body = response
    return add_body(encode_head(status, headers, keep_alive=keep_alive, version=version), body)


def closing(response: HttpResponse, *, bodiless: bool = False) -> bytes:
    """Encode the last response of a connection; ``bodiless`` leaves the body out, as an answer to HEAD."""
    data = encode(response, keep_alive=False)
    return data[: data.index(b"\r\n\r\n") + 4] if bodiless else data
