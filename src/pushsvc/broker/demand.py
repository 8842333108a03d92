"""Demand for statistics in Redis: the windows whose frames somebody shows or asked for within the last minute.

Who shows a window asks for it again and again. The owner of its partition hears of a window that is asked for anew, and
writes a snapshot. It ends the demand that nobody renewed. So frames are current from the first one that was written
after the demand began.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from pushsvc.broker import script
from pushsvc.broker.connection_pool import Connections
from pushsvc.broker.keys import Keys, Log
from pushsvc.broker.replies import raise_first
from pushsvc.broker.script import ScriptCall
from pushsvc.errors import Fenced

_NO_FRAME, _CURRENT = 0, 2  # states of a window's log, see want.lua
_AT_ONCE = 200  # windows that one call of a script takes


@dataclass(frozen=True, slots=True)
class WantedLog:
    """The answer to a demand. ``current``: the log has a frame that was written since the demand began, or there is no
    topic. ``pending``: one is expected, since an aggregator holds the partition, or since there is no other frame."""

    log: Log
    current: bool
    pending: bool


class DemandStore:
    """The demand for the windows of all partitions, for ``lifetime`` ms after each request.

    Methods raise errors of ``pushsvc.errors``.
    """

    def __init__(self, keys: Keys, connections: Connections, lifetime: int) -> None:
        self.lifetime = lifetime
        self._keys = keys
        self._connections = connections

    def ask(self, logs: Sequence[Log], *, unborn: bool = False, remind: bool = False) -> list[WantedLog]:
        """Ask for the frames of windows, in one round trip.

        Nothing is stored for a topic that does not exist, unless ``unborn``. ``remind``: an aggregator that was asked
        before, and has not written a frame since, is asked again.
        """
        by_partition: dict[int, list[Log]] = defaultdict(list)
        for log in logs:
            by_partition[log.partition].append(log)
        pieces = [
            own[start : start + _AT_ONCE] for own in by_partition.values() for start in range(0, len(own), _AT_ONCE)
        ]
        replies = raise_first(self._connections.calls([self._ask(piece, unborn, remind) for piece in pieces]))
        return [
            WantedLog(log, state == _CURRENT, bool(state == _NO_FRAME or (owned and state != _CURRENT)))
            for piece, (owned, *states) in zip(pieces, replies, strict=True)
            for log, state in zip(piece, states, strict=True)
        ]

    def _ask(self, logs: Sequence[Log], unborn: bool, remind: bool) -> ScriptCall:
        names, partition = self._keys, logs[0].partition
        keys = [names.wanted(partition), names.lease(partition)]
        for log in logs:
            keys += [names.metadata(log), names.metadata(Log(log.topic))]
        channel, command = names.partition_channel(partition), self._connections.publish_command
        arguments = [self.lifetime, command, channel, int(unborn), int(remind), *(log.name for log in logs)]
        return ScriptCall(script.WANT, keys, arguments)

    def read(self, partition: int) -> list[str]:
        """Return the names of the wanted logs of a partition, also of those for which the demand is about to end."""
        return [name.decode() for name in self._connections.command("HKEYS", self._keys.wanted(partition))]

    def end(self, partition: int, fence: int, names: Sequence[str]) -> dict[str, int]:
        """End the demand that is over; return for how many ms each log is still wanted. Raise Fenced."""
        keys = [self._keys.partition(partition), self._keys.wanted(partition)]
        state, *left = self._connections.call(script.UNWANT, keys, [fence, *names])
        if state == b"fenced":
            raise Fenced(f"another aggregator owns partition {partition}")
        return dict(zip(names, left, strict=True))
