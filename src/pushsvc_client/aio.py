"""I/O on asyncio: streams of the standard library."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AbstractAsyncContextManager, suppress

from pushsvc_client.network import PIECE, Address

CONNECTIONS = 100  # that requests of a client use at a time; streams have connections of their own


class AsyncioConnection:
    """A ``network.Connection`` of one event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader, self._writer = reader, writer

    async def send(self, data: bytes, timeout: float) -> None:
        self._writer.write(data)
        async with asyncio.timeout(timeout):
            await self._writer.drain()

    async def receive(self, timeout: float) -> bytes:
        async with asyncio.timeout(timeout):
            return await self._reader.read(PIECE)

    def is_idle(self) -> bool:
        if self._loop is not asyncio.get_running_loop() or self._writer.is_closing():
            return False
        return not self._reader.at_eof() and self._reader.exception() is None

    def close(self) -> None:
        with suppress(RuntimeError):  # its loop was closed, and the socket with it
            self._writer.transport.abort()


class AsyncioNetwork:
    """A ``network.Network`` of the running loop; a client may be used in several loops, one after another."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._places = asyncio.Semaphore(CONNECTIONS)

    async def connect(self, address: Address, timeout: float) -> AsyncioConnection:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(address.host, address.port, ssl=address.tls)
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return AsyncioConnection(reader, writer)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def place(self) -> AbstractAsyncContextManager[None]:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._places = loop, asyncio.Semaphore(CONNECTIONS)
        return self._places
