"""Limits that all web processes share: allowances of rates, and reservations of streams.

Each limit has a key of its own, outside the partitions: publishing neither reads nor writes it.
"""

from collections.abc import Sequence
from typing import NamedTuple

from pushsvc.broker import script
from pushsvc.broker.connection_pool import Connections
from pushsvc.broker.keys import Keys
from pushsvc.broker.replies import raise_first
from pushsvc.broker.script import ScriptCall


class Drawn(NamedTuple):
    """An amount that may be used from now on; if it is 0, the seconds until something may be there."""

    granted: int
    wait: float


class Reservation(NamedTuple):
    """Streams of ``who`` that a process wants in all, and the limit of all processes."""

    who: str
    wanted: int
    limit: int


class RateStore:
    """Methods raise errors of ``pushsvc.errors``."""

    def __init__(self, keys: Keys, connections: Connections) -> None:
        self._keys = keys
        self._connections = connections

    def draw(self, name: str, who: str, *, rate: int, spent: int, wanted: int) -> Drawn:
        """Draw from the rate ``name`` of a subject or address (``who``), ``rate`` a second. ``spent`` was used before
        it was drawn."""
        granted, wait = self._connections.call(script.DRAW, [self._keys.rate(name, who)], [rate, spent, wanted])
        return Drawn(granted, wait / 1_000)

    def reserve(self, process: str, wanted: Sequence[Reservation], lifetime: float) -> list[int]:
        """Set the streams that a process has reserved, for ``lifetime`` seconds; return how many it got of each."""
        calls = [
            ScriptCall(
                script.RESERVE, [self._keys.streams(one.who)], [process, one.wanted, one.limit, int(lifetime * 1_000)]
            )
            for one in wanted
        ]
        return list(map(int, raise_first(self._connections.calls(calls))))
