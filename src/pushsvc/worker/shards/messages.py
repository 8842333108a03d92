"""What the owner of a split topic and the processes that count its parts say to each other.

A message is its length in four bytes and MessagePack. A part answers ``Begin``, ``Tell`` and ``Save``, one answer each,
in order; it answers nothing else. So what it says is of exactly the entries that it was sent before it was asked.
"""

from __future__ import annotations

import socket
from typing import Any

import msgspec

from pushsvc.aggregate.merge import Share
from pushsvc.aggregate.row_updates import Topic
from pushsvc.settings import TopicSettings

_LENGTH = 4


class Begin(msgspec.Struct, tag=True):
    """Be part ``number`` of a topic that began at ``since``, from a ``state`` or, without one, with a clock at ``time``
    (ms)."""

    settings: TopicSettings
    number: int
    name: str
    since: int
    time: int
    state: bytes | None = None


class Count(msgspec.Struct, tag=True):
    """Count an entry of the log, as it is there. ``told`` says that its late events were told of before."""

    offset: int
    arrival: int
    told: bool
    data: bytes


class Tell(msgspec.Struct, tag=True):
    """Say your shares of some windows, the ``whole`` or what changed, with the clock at ``time`` (ms) or later."""

    time: int | None
    whole: bool
    windows: list[int]


class Save(msgspec.Struct, tag=True):
    """Say your state."""


class Figures(msgspec.Struct, array_like=True):
    """What a part knows of the topic, as of counting.Topic. All but ``folded`` is the same in every part."""

    late: int
    told_late: int
    late_by_window: dict[str, int]
    ahead: int
    folded: int
    ignored: int

    @classmethod
    def of(cls, topic: Topic) -> Figures:
        return cls(*(getattr(topic, name) for name in cls.__struct_fields__))

    def set_on(self, topic: Topic) -> None:
        for name in self.__struct_fields__:
            setattr(topic, name, getattr(self, name))


class Told(msgspec.Struct, tag=True):
    """An answer to ``Begin`` and ``Tell``. ``agenda`` has for each window whether there is more to say, and the ms at
    which the clock may bring something. ``unreadable`` entries were counted as if they had no events."""

    offset: int
    shares: list[Share]
    agenda: list[tuple[bool, int | None]]
    figures: Figures
    unreadable: int
    spent: float


class Saved(msgspec.Struct, tag=True):
    """An answer to ``Save``, and the CPU seconds ``spent`` since the last answer, as in Told."""

    state: bytes
    spent: float


class Unusable(msgspec.Struct, tag=True):
    """An answer to ``Begin``: the state is none."""

    detail: str


class Failed(msgspec.Struct, tag=True):
    """An answer to anything: the entry that ends with ``offset`` could not be counted, and nothing was since."""

    offset: int


Question = Begin | Count | Tell | Save
Answer = Told | Saved | Unusable | Failed

_encoder = msgspec.msgpack.Encoder()


def encode(message: Question | Answer) -> bytes:
    data = _encoder.encode(message)
    return len(data).to_bytes(_LENGTH, "big") + data


class Reader:
    """Reads messages of some types from a socket."""

    def __init__(self, source: socket.socket, types: Any) -> None:
        self._source = source
        self._decoder = msgspec.msgpack.Decoder(types)

    def read(self) -> Any:
        """Return the next message; raise EOFError where the other side is gone, and what the socket raises."""
        length = int.from_bytes(self._exactly(_LENGTH), "big")
        return self._decoder.decode(self._exactly(length))

    def _exactly(self, size: int) -> bytearray:
        data = bytearray(size)
        view, at = memoryview(data), 0
        while at < size:
            got = self._source.recv_into(view[at:])
            if not got:
                raise EOFError
            at += got
        return data
