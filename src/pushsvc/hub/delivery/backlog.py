"""What the connections of a channel were sent: a chain of chunks, newest last."""

from pushsvc.hub.limits import FanoutLimits


class Chunk:
    """``count`` messages that leave together, as one chunk of HTTP/1.1; ``tick`` is the clock when they do.

    ``cursor`` is the position of a client that has them, ``next`` the chunk after. A chunk is ``lost`` once the chain
    after it was dropped: a connection at this chunk continues from the logs, at ``cursor``.
    """

    __slots__ = ("count", "cursor", "data", "lost", "next", "number", "read_at", "tick")

    def __init__(self, data: bytes, count: int, cursor: str, read_at: float, number: int) -> None:
        self.data = data
        self.count = count
        self.cursor = cursor
        self.read_at = read_at
        self.number = number
        self.tick = 0
        self.next: Chunk | None = None
        self.lost = False


class Backlog:
    """The chain from ``base`` to ``end``. Every connection that is not behind has ``front``.

    Chunks after ``front`` are never dropped: every connection still needs them.
    """

    __slots__ = ("_chunks", "_limits", "base", "end", "front", "size")

    def __init__(self, cursor: str, limits: FanoutLimits) -> None:
        self.base = self.front = self.end = Chunk(b"", 0, cursor, 0.0, 0)
        self.size = 0
        self._chunks = 0
        self._limits = limits

    def append(self, data: bytes, count: int, cursor: str, read_at: float) -> None:
        chunk = Chunk(data, count, cursor, read_at, self.end.number + 1)
        self.end.next = chunk
        self.end = chunk
        self.size += len(data)
        self._chunks += 1

    def restart(self, cursor: str) -> None:
        """Drop all chunks: connections at any of them recover. Requires that no pass is under way."""
        chunk: Chunk | None = self.base
        while chunk is not None:
            chunk.lost, chunk.data = True, b""
            chunk.next, chunk = None, chunk.next
        self.base = self.front = self.end = Chunk(b"", 0, cursor, 0.0, self.end.number + 1)
        self.size = self._chunks = 0

    def trim(self, *, behind: bool) -> None:
        """Drop the chunks before ``front``: those beyond the bound while a connection is ``behind``, else all."""
        while (kept := self.base.next) is not None and self.base is not self.front and not (behind and self._fits()):
            self.base.next, self.base.lost = None, True
            self.base = kept
            self.size -= len(kept.data)
            self._chunks -= 1
            kept.data = b""

    def _fits(self) -> bool:
        return self._chunks <= self._limits.backlog_chunks and self.size <= self._limits.backlog_bytes
