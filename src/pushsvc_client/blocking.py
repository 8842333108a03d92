"""I/O for threads and greenlets: coroutines that never wait for an event loop, because they block instead."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Generator
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from typing import TypeVar

from pushsvc_client.network import PIECE, Address

T = TypeVar("T")


def run(awaitable: Awaitable[T]) -> T:
    """Return what a coroutine returns that waits for nothing but this module's I/O."""
    steps = awaitable.__await__()
    try:
        next(steps)
    except StopIteration as end:
        result: T = end.value
        return result
    with suppress(RuntimeError):  # what waits may not be closed in the middle
        steps.close()
    raise TypeError("Client takes no asynchronous functions and iterables, which AsyncClient does")


def iterate(items: AsyncGenerator[T]) -> Generator[T]:
    """Yield what an asynchronous generator yields, and close it at the end."""
    try:
        while True:
            try:
                item = run(anext(items))
            except StopAsyncIteration:
                return
            yield item
    finally:
        run(items.aclose())


class BlockingConnection:
    """A ``network.Connection`` on a socket."""

    def __init__(self, address: Address, timeout: float) -> None:
        self._socket = socket.create_connection((address.host, address.port), timeout)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if address.tls is not None:
                self._socket = address.tls.wrap_socket(self._socket, server_hostname=address.host)
        except BaseException:
            self._socket.close()
            raise

    async def send(self, data: bytes, timeout: float) -> None:
        self._socket.settimeout(timeout)
        self._socket.sendall(data)

    async def receive(self, timeout: float) -> bytes:
        self._socket.settimeout(timeout)
        return self._socket.recv(PIECE)

    def is_idle(self) -> bool:
        # Anything readable means the end, or an answer that nobody asked for.
        try:
            self._socket.settimeout(0)
            self._socket.recv(1)
        except OSError as error:  # by its name: those alone who use TLS import ssl
            return isinstance(error, BlockingIOError | TimeoutError) or type(error).__name__ == "SSLWantReadError"
        return False

    def close(self) -> None:
        self._socket.close()


class BlockingNetwork:
    """A ``network.Network`` of sockets. Threads limit the requests at a time themselves."""

    async def connect(self, address: Address, timeout: float) -> BlockingConnection:
        return BlockingConnection(address, timeout)

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def place(self) -> AbstractAsyncContextManager[None]:
        return nullcontext()
