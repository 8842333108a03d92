"""Watching: an endless event stream that reconnects and resumes after the last message."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException, HTTPResponse

from pushsvc import sse
from pushsvc.client.errors import ClientError
from pushsvc.client.session import Session

_SILENCE = 45.0
"""Seconds without a byte after which a stream is lost: three heartbeats."""

_RECONNECT = 2.0
"""Seconds before a reconnection, unless the server sets another delay."""


def watch(session: Session, path: str, last_id: str) -> Iterator[sse.Message]:
    """Yield the messages of a stream forever; ``Client.events`` describes resuming and errors."""
    decoder = sse.Decoder(last_id)
    connection, response = session.retry(lambda: _connect(session, path, decoder.last_id), repeatable=True)
    while True:
        try:
            yield from _messages(response, decoder)
        finally:
            connection.close()
        decoder = _without_rest(decoder)
        connection, response = _reconnect(session, path, decoder)


def _connect(session: Session, path: str, last_id: str) -> tuple[HTTPConnection, HTTPResponse]:
    headers = {"Last-Event-ID": last_id} if last_id else {}
    return session.open_stream(path, sse.MEDIA_TYPE, headers, _SILENCE)


def _reconnect(session: Session, path: str, decoder: sse.Decoder) -> tuple[HTTPConnection, HTTPResponse]:
    while True:
        wait = _RECONNECT if decoder.retry is None else decoder.retry / 1000
        time.sleep(wait * random.uniform(0.8, 1.2))
        try:
            return _connect(session, path, decoder.last_id)
        except ClientError as error:
            if not error.temporary:
                raise


def _messages(response: HTTPResponse, decoder: sse.Decoder) -> Iterator[sse.Message]:
    while True:
        try:
            data = response.read1(65_536)
        except (OSError, HTTPException):
            return
        if not data:
            return
        yield from decoder.feed(data)


def _without_rest(decoder: sse.Decoder) -> sse.Decoder:
    """Return a decoder for the next connection: it drops the incomplete message of the lost one."""
    successor = sse.Decoder(decoder.last_id)
    successor.retry = decoder.retry
    return successor
