"""Decodes the chunked transfer coding, strictly and independently of the code under test."""

import re

_SIZE = re.compile(rb"0|[1-9a-f][0-9a-f]*")


class ChunkDecoder:
    """Returns the bytes of chunks from pieces of any size. ``complete`` is true after the last chunk, which ``rest``
    follows. ``sizes`` are those of all chunks that have begun."""

    def __init__(self) -> None:
        self.complete = False
        self.sizes: list[int] = []
        self.rest = b""
        self._left = 0  # bytes of the chunk, and of the line end after it

    def feed(self, data: bytes) -> bytes:
        self.rest += data
        body = b""
        while self.rest and not self.complete:
            if self._left:
                piece = self.rest[: self._left]
                self.rest, self._left = self.rest[len(piece) :], self._left - len(piece)
                end = 2 - self._left if self._left < 2 else 0  # how much of the line end is read
                end = min(end, len(piece))
                body += piece[: len(piece) - end]
                read = 2 - self._left
                assert not end or b"\r\n"[read - end : read] == piece[len(piece) - end :], piece
            elif b"\n" not in self.rest:
                assert len(self.rest) < 16, self.rest
                break
            else:
                line, _, self.rest = self.rest.partition(b"\n")
                assert line.endswith(b"\r"), line
                assert _SIZE.fullmatch(line[:-1]), line
                size = int(line[:-1], 16)
                if size:
                    self.sizes.append(size)
                    self._left = size + 2
                elif len(self.rest) >= 2:
                    assert self.rest[:2] == b"\r\n", self.rest
                    self.rest = self.rest[2:]
                    self.complete = True
                else:
                    self.rest = line + b"\n" + self.rest
                    break
        return body
