"""The hub's clock: whole seconds, for everything that measures silence."""

from __future__ import annotations


class Clock:
    """``tick`` is the number of seconds since the hub started. The heartbeat wheel advances it."""

    __slots__ = ("tick",)

    def __init__(self) -> None:
        self.tick = 0
