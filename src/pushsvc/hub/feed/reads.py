"""Reads of partitions: those that are asked for in one turn of the loop share a round trip."""

from collections.abc import Iterator, Mapping
from copy import copy
from typing import Any

import gevent
from gevent.event import AsyncResult

from pushsvc.broker.broker import READ_BYTES, Broker, ReadRequest
from pushsvc.broker.keys import Log
from pushsvc.broker.log import ChangedLogs, PartitionRead

_READS = 32  # reads of one round trip at most


class _Waiting:
    """A read that was asked for."""

    __slots__ = ("request", "result")

    def __init__(self, request: ReadRequest) -> None:
        self.request = request
        self.result: Any = AsyncResult()


class SharedReads:
    """Reads logs for the followers of a process.

    A round trip has at most ``logs`` logs: the event loop stands still while their replies are parsed. Its reads share
    the bytes that one may have.
    """

    def __init__(self, broker: Broker, logs: int) -> None:
        self._broker = broker
        self._logs = logs
        self._waiting: list[_Waiting] = []

    def read(self, partition: int, logs: Mapping[Log, int], *, budget: int = READ_BYTES) -> PartitionRead:
        """Read logs of one partition, as ``Broker.read``."""
        waiting = _Waiting(ReadRequest(partition, logs, budget))
        self._waiting.append(waiting)
        if len(self._waiting) == 1:
            gevent.spawn(self._send)
        found: PartitionRead = waiting.result.get()
        return found

    def changed(self, partition: int, after: int) -> ChangedLogs:
        """Return the logs of a partition that changed, as ``Broker.changed``."""
        return self._broker.changed(partition, after)

    def _send(self) -> None:
        first, *others = self._groups()
        for group in others:
            gevent.spawn(self._send_group, group)
        self._send_group(first)

    def _groups(self) -> Iterator[list[_Waiting]]:
        """Yield the waiting reads in groups, one for each round trip."""
        waiting, self._waiting = self._waiting, []
        group: list[_Waiting] = []
        logs = 0
        for one in waiting:
            logs += len(one.request.logs)
            if group and (len(group) == _READS or logs > self._logs):
                yield group
                group, logs = [], len(one.request.logs)
            group.append(one)
        yield group

    def _send_group(self, group: list[_Waiting]) -> None:
        try:
            if len(group) == 1:
                request = group[0].request
                group[0].result.set(self._broker.read(request.partition, request.logs, budget=request.budget))
                return
            most = READ_BYTES // len(group)
            requests = [one.request._replace(budget=min(one.request.budget, most)) for one in group]
            for one, found in zip(group, self._broker.reads(requests), strict=True):
                if isinstance(found, PartitionRead):
                    one.result.set(found)
                else:
                    one.result.set_exception(found)
        except Exception as error:  # noqa: BLE001 - raised in the greenlets that wait
            for one in group:  # one object each: a shared one would collect the tracebacks of all raises
                one.result.set_exception(copy(error))
