"""Channels with slow members: what they hold for them, as the memory budget of the process counts it.

Counting happens after a pass over a channel that has slow members, and once a second: never for a delivery.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

from gevent import get_hub

from pushsvc.errors import MemoryFull

_STEP = 4_000  # bytes by which a channel grows before it is counted again


class CountedBytes(Protocol):
    """Bytes that the budget counts. ``resize`` raises MemoryFull without room, or after the hold was let go."""

    @property
    def size(self) -> int: ...
    def resize(self, size: int) -> None: ...
    def release(self) -> None: ...


class Memory(Protocol):
    """Counts bytes held for clients; see MemoryBudget."""

    def hold(self, address: str, size: int, let_go: Callable[[], None] | None = None) -> CountedBytes: ...


class SlowChannel(Protocol):
    """A channel, as far as counting needs it."""

    @property
    def backlog_bytes(self) -> int: ...
    def end_slow(self) -> None: ...


C = TypeVar("C", bound=SlowChannel)


class _Held:
    """The hold of a channel, None while it has few bytes; ``rests`` are the bytes that its members hold alone."""

    __slots__ = ("hold", "rests")

    def __init__(self) -> None:
        self.hold: CountedBytes | None = None
        self.rests = 0


class SlowChannels(Generic[C]):
    """The channels that have slow members. Without room in ``memory`` (None: without limit) the largest one ends these.

    Members of a channel come from many addresses, so no address has a share of it.
    """

    def __init__(self) -> None:
        self.memory: Memory | None = None
        self._held: dict[C, _Held] = {}

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[C]:
        return iter(list(self._held))

    def add(self, channel: C) -> None:
        self._held[channel] = _Held()

    def discard(self, channel: C) -> None:
        held = self._held.pop(channel, None)
        if held is not None and held.hold is not None:
            held.hold.release()

    def add_rest(self, channel: C, size: int) -> None:
        """Note that a member holds ``size`` more bytes alone."""
        held = self._held.get(channel)
        if held is not None:
            self.count(channel, held.rests + size)

    def count(self, channel: C, rests: int | None = None) -> None:
        """Count what a channel holds now, and ``rests`` if they are known anew."""
        held = self._held.get(channel)
        if held is None or self.memory is None:
            return
        held.rests = held.rests if rests is None else rests
        size, hold = channel.backlog_bytes + held.rests, held.hold
        if abs(size - (hold.size if hold is not None else 0)) < _STEP:
            return
        try:
            if hold is None:
                held.hold = self.memory.hold("", size, lambda: self._let_go(channel))
            else:
                hold.resize(size)
        except MemoryFull:
            self._let_go(channel)

    def _let_go(self, channel: C) -> None:
        """End the slow members after this turn of the loop: a pass may be under way."""
        held = self._held.get(channel)
        if held is not None and held.hold is not None:
            held.hold.release()
            held.hold = None
        get_hub().loop.run_callback(channel.end_slow)
