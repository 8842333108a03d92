"""An answer in the making, whose bytes count in the memory budget."""

from __future__ import annotations

import io

from pushsvc.errors import MemoryFull
from pushsvc.web.memory.budget import Hold, MemoryBudget

_STEP = 256_000  # bytes between two counts


class CountedBytes:
    """Counts growing bytes that are held for the client at ``address``. ``close`` ends the count."""

    def __init__(self, memory: MemoryBudget, address: str) -> None:
        self._memory = memory
        self._address = address
        self._counted = 0
        self._hold: Hold | None = None

    def resize(self, size: int) -> None:
        """Hold ``size`` bytes, not fewer than before. Raise MemoryFull if there is no room for them, or if they had to
        make room for others."""
        if self._hold is not None and self._hold.gone:
            raise MemoryFull
        if size > self._counted + _STEP:
            if self._hold is None:
                self._hold = self._memory.hold(self._address, size, _nothing)
            else:
                self._hold.resize(size)
            self._counted = size

    def close(self) -> None:
        if self._hold is not None:
            self._hold.release()


class GrowingAnswer:
    """Collects the bytes of an answer for the client at ``address``. ``close`` ends the count: then the server counts
    what it sends."""

    def __init__(self, memory: MemoryBudget, address: str) -> None:
        self._counted = CountedBytes(memory, address)
        self._buffer = io.BytesIO()

    def add(self, data: bytes) -> None:
        """Append bytes. Raise MemoryFull if there is no room for them, or if they had to make room for others."""
        self._counted.resize(self._buffer.tell() + len(data))
        self._buffer.write(data)

    def bytes(self) -> bytes:
        """Return the answer, without a copy."""
        return self._buffer.getvalue()

    def close(self) -> None:
        self._counted.close()


def _nothing() -> None:
    """The next growth notices that the hold is gone, and the request ends there."""
