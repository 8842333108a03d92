"""The leases of this process: an equal share of the partitions, each a key in Redis that expires unless renewed."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from secrets import token_hex
from typing import Protocol

import gevent
from prometheus_client import Gauge

from pushsvc.errors import PushError, Unavailable
from pushsvc.topic import PARTITIONS
from pushsvc.worker.policy import WorkerPolicy

log = logging.getLogger(__name__)

OWNED = Gauge("pushsvc_partitions_owned", "Partitions owned by this host's aggregators", multiprocess_mode="livesum")


class LeaseStore(Protocol):
    """Where leases are kept. Methods are as those of ``Broker``."""

    def lease(self, partitions: Sequence[int], owner: str, milliseconds: int) -> Mapping[int, int | None]: ...
    def release(self, partitions: Sequence[int], owner: str) -> None: ...
    def join_aggregators(self, owner: str, now: int, until: int) -> int: ...
    def leave_aggregators(self, owner: str) -> None: ...
    def time(self) -> int: ...


class Leases:
    """The leases of one aggregator, each with its fencing token; ``owned`` shows their number.

    ``adopted(partition, fence)`` is called when this process takes a partition, and again with a newer token if another
    process owned it meanwhile. ``dropped(partition)`` is called when the partition is lost or given away.
    """

    def __init__(
        self, broker: LeaseStore, adopted: Callable[[int, int], None], dropped: Callable[[int], None],
        policy: WorkerPolicy | None = None, owned: Callable[[float], None] = OWNED.set,
    ) -> None:  # fmt: skip
        self._broker = broker
        self._policy = policy or WorkerPolicy()
        self._milliseconds = int(self._policy.lease * 1000)
        self._adopted = adopted
        self._dropped = dropped
        self._owner = token_hex(8)
        self._show_owned = owned
        self._fences: dict[int, int] = {}
        self._renewed: dict[int, float] = {}
        self._alive = 1

    def close(self) -> None:
        """Release all partitions, so that others need not wait until the leases expire."""
        gevent.with_timeout(self._policy.leave_timeout, self._leave, timeout_value=None)
        for partition in list(self._fences):
            self.forget(partition)
        self._show_owned(0)

    def fence_of(self, partition: int) -> int | None:
        """Return the fencing token of a partition; None if this process does not own it."""
        return self._fences.get(partition)

    def fences(self) -> dict[int, int]:
        """Return the owned partitions with their fencing tokens."""
        return dict(self._fences)

    def forget(self, partition: int) -> None:
        """Drop a partition that another process owns."""
        self._fences.pop(partition, None)
        self._renewed.pop(partition, None)
        self._dropped(partition)

    def renew(self) -> None:
        """Renew the leases; take free partitions, or give away those beyond an equal share."""
        self._join()
        share = -(-PARTITIONS // max(1, self._alive))
        self._give_away(sorted(self._fences)[share:])
        self._extend()
        wanted = [partition for partition in range(PARTITIONS) if partition not in self._fences]
        self._take(wanted, share - len(self._fences))
        self._show_owned(len(self._fences))

    def _join(self) -> None:
        """Count the aggregators; while the primary that lists them is unreachable, the last count holds."""
        try:
            now = self._broker.time()
            self._alive = self._broker.join_aggregators(self._owner, now, now + self._milliseconds)
        except Unavailable as error:
            log.warning("the aggregators cannot be counted: %s", error)

    def run(self) -> None:
        """Renew the leases regularly, until the greenlet is killed."""
        while True:
            try:
                self.renew_or_expire()
            except Exception:
                log.exception("renewing the leases failed")
            gevent.sleep(self._policy.lease / 4)

    def renew_or_expire(self) -> None:
        """Renew the leases; drop those that may have expired if Redis cannot be asked."""
        try:
            self.renew()
        except PushError as error:
            log.warning("the leases cannot be renewed: %s", error)
            self._forget_expired()

    def _forget_expired(self) -> None:
        """Drop the partitions that another process may own by now."""
        for partition, renewed in list(self._renewed.items()):
            if time.monotonic() - renewed > self._policy.lease:
                self.forget(partition)

    def _leave(self) -> None:
        try:
            self._broker.release(list(self._fences), self._owner)
            self._broker.leave_aggregators(self._owner)
        except PushError as error:
            log.warning("the leases cannot be returned: %s", error)

    def _give_away(self, surplus: list[int]) -> None:
        for partition in surplus:
            self.forget(partition)
        if surplus:
            self._broker.release(surplus, self._owner)

    def _extend(self) -> None:
        kept = self._broker.lease(list(self._fences), self._owner, self._milliseconds)
        for partition in set(self._fences) - set(kept):
            self.forget(partition)
        for partition, fence in kept.items():
            if fence is None:
                continue
            # It was forgotten while Redis was asked, or another process owned it meanwhile and may have written.
            if self._fences.get(partition) != fence:
                self._adopt(partition, fence)
            self._renewed[partition] = time.monotonic()
        self._forget_expired()

    def _take(self, wanted: list[int], room: int) -> None:
        failure: Unavailable | None = None
        while wanted and room > 0:
            asked, wanted = wanted[:room], wanted[room:]
            try:
                taken = self._broker.lease(asked, self._owner, self._milliseconds)
            except Unavailable as error:  # the next partitions may be at another primary
                failure = error
                continue
            for partition, fence in taken.items():
                if fence is not None:
                    self._adopt(partition, fence)
                    room -= 1
        if failure is not None:
            raise failure

    def _adopt(self, partition: int, fence: int) -> None:
        self._fences[partition] = fence
        self._renewed[partition] = time.monotonic()
        self._adopted(partition, fence)
