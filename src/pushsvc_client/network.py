"""What the logic of the client needs of its I/O. ``blocking`` has it for threads and greenlets, ``aio`` for asyncio."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from ssl import SSLContext

PIECE = 65_536  # bytes that are read at a time


class Address(NamedTuple):
    """Where a server listens; ``tls`` is None for plain HTTP."""

    host: str
    port: int
    tls: SSLContext | None


class Connection(Protocol):
    """A connection to the server. Its methods raise OSError, also when ``timeout`` seconds are over."""

    async def send(self, data: bytes, timeout: float) -> None:
        """Send all of ``data``."""

    async def receive(self, timeout: float) -> bytes:
        """Return what has come, at most PIECE bytes, or ``b""`` at the end."""

    def is_idle(self) -> bool:
        """Return whether the connection is open, and nothing came on it since the last answer."""

    def close(self) -> None:
        """Close the connection at once."""


class Network(Protocol):
    """Connections, and the time between two attempts."""

    async def connect(self, address: Address, timeout: float) -> Connection:
        """Return a new connection; raise OSError."""

    async def sleep(self, seconds: float) -> None:
        """Return after some seconds."""

    def place(self) -> AbstractAsyncContextManager[object]:
        """Return what a request holds while it uses a connection: there may be a limit."""
