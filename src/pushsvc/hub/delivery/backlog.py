"""What a group of equal streams was sent, newest last: a chain of chunks, each known by who stands before it."""

from __future__ import annotations

BACKLOG_CHUNKS, BACKLOG_BYTES = 1_000, 1_000_000
"""What is kept for streams that are behind, at most (or one larger chunk). They share it, however many they are."""


class Chunk:
    """Frames that left together, at the hub's ``tick``. ``cursor`` is the position of who has them; ``next`` leads to
    what follows.

    ``lost`` tells that what follows is kept no more: who stands here goes on from the cursor, by way of the logs.
    """

    __slots__ = ("cursor", "data", "frames", "lost", "next", "number", "read_at", "tick")

    def __init__(self, data: bytes, frames: int, cursor: str, read_at: float, number: int) -> None:
        self.data = data
        self.frames = frames
        self.cursor = cursor
        self.read_at = read_at
        self.number = number
        self.tick = 0
        self.next: Chunk | None = None
        self.lost = False


class Tape:
    """The chain from ``base`` to ``end``; ``front`` is the chunk that every stream which is not behind has.

    Nothing behind ``front`` is ever dropped: it is still to be sent to everybody.
    """

    __slots__ = ("_chunks", "base", "end", "front", "size")

    def __init__(self, cursor: str) -> None:
        self.base = self.front = self.end = Chunk(b"", 0, cursor, 0.0, 0)
        self.size = 0
        self._chunks = 0

    def append(self, data: bytes, frames: int, cursor: str, read_at: float) -> None:
        chunk = Chunk(data, frames, cursor, read_at, self.end.number + 1)
        self.end.next = chunk
        self.end = chunk
        self.size += len(data)
        self._chunks += 1

    def trim(self, *, behind: bool) -> None:
        """Let go of what lies before ``front``: beyond the bound while a stream is ``behind``, else all of it."""
        while (kept := self.base.next) is not None and self.base is not self.front and not (behind and self._fits()):
            self.base.next, self.base.lost = None, True
            self.base = kept
            self.size -= len(kept.data)
            self._chunks -= 1
            kept.data = b""

    def _fits(self) -> bool:
        return self._chunks <= BACKLOG_CHUNKS and self.size <= BACKLOG_BYTES
