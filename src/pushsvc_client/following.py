"""Follows a stream: reconnects when it is cut, and resumes after its last message."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Callable

from pushsvc_client.errors import ClientError
from pushsvc_client.http1 import Exchange
from pushsvc_client.session import Session
from pushsvc_client.sse import Decoder, Message

OnOutage = Callable[[str | None], object]

_RECONNECT = 2.0  # seconds before a reconnection, unless the server sets another delay
_SILENCE = 45.0  # seconds without a byte after which a stream is lost: three heartbeats
_ROUTINE = ("", "pushsvc", "heartbeat")  # comments of a stream that goes on; any other is the reason why it ends


class Outage:
    """Reports the beginning of an outage of a stream with its reason, and its end with None, each once."""

    def __init__(self, report: OnOutage | None) -> None:
        self._report = report or (lambda _: None)
        self._lasts = False

    def note(self, reason: str | None) -> None:
        if self._lasts != (reason is not None):
            self._lasts = reason is not None
            self._report(reason)


async def follow(
    session: Session, path: str, last_id: str, outage: Outage, *, with_heartbeats: bool
) -> AsyncGenerator[Message]:
    """Yield the messages of a stream forever; ``Client.events`` describes resuming and errors.

    Heartbeats move the cursor, and are yielded only if asked for.
    """
    decoder = Decoder(last_id)
    exchange = await session.retry(lambda: _open(session, path, decoder, outage), repeatable=True)
    while True:
        try:
            while data := await _read(exchange):
                messages = list(decoder.feed(data))
                if decoder.comment in _ROUTINE:  # else the server answers, but cannot serve the stream yet
                    outage.note(None)
                for message in messages:
                    if with_heartbeats or message.event != "heartbeat":
                        yield message
        finally:
            exchange.close()
        if decoder.comment not in _ROUTINE:
            outage.note(f"{session.url} ended the stream: {decoder.comment}")
        retry, decoder = decoder.retry, Decoder(decoder.last_id)  # a new one drops the incomplete message
        decoder.retry = retry
        exchange = await _reconnect(session, path, decoder, outage)


async def _read(exchange: Exchange) -> bytes:
    """Return what comes next, ``b""`` when the stream has ended or was cut."""
    try:
        return await exchange.read(_SILENCE)
    except OSError:
        return b""


async def _open(session: Session, path: str, decoder: Decoder, outage: Outage) -> Exchange:
    try:
        return await session.open_stream(path, decoder.last_id)
    except ClientError as error:
        if error.temporary:
            outage.note(error.detail)
        raise


async def _reconnect(session: Session, path: str, decoder: Decoder, outage: Outage) -> Exchange:
    wait = _RECONNECT if decoder.retry is None else decoder.retry / 1000
    while True:
        await session.network.sleep(wait * random.uniform(0.8, 1.2))
        try:
            return await _open(session, path, decoder, outage)
        except ClientError as error:
            if not error.temporary:
                raise
            wait = max(wait, error.retry_after or 0.0)
