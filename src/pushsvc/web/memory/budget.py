"""The budget of the bytes that one process holds for its clients. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from pushsvc.errors import MemoryFull
from pushsvc.web.memory.by_size import BySize
from pushsvc.web.memory.networks import network_of
from pushsvc.web.memory.work import WorkQueue


class _Network:
    """What the addresses of one client hold. ``loose`` is the part of ``held`` that may be let go; ``count`` is the
    number of holds. ``key`` is None if the network has one hold only."""

    __slots__ = ("by_size", "count", "held", "key", "loose")

    def __init__(self, key: bytes | None) -> None:
        self.key = key
        self.count = self.held = self.loose = 0
        self.by_size: BySize[Hold] = BySize()


class Hold:
    """``size`` bytes that are held for a client.

    ``gone`` is true after the end: either the owner released the hold, or the budget has let it go. Then its bytes are
    not counted any more, and the owner must drop them.
    """

    __slots__ = ("_budget", "gone", "let_go", "network", "size")

    def __init__(self, budget: MemoryBudget, network: _Network, let_go: Callable[[], None] | None) -> None:
        self._budget = budget
        self.network = network
        self.let_go = let_go
        self.size = 0
        self.gone = False

    def resize(self, size: int) -> None:
        """Hold ``size`` bytes from now on. Raise MemoryFull if there is no room, or after the end."""
        if self.gone:
            raise MemoryFull
        if size > self.size:
            self._budget.grow(self, size)
        else:
            self._budget.count(self, size)

    def keep(self) -> None:
        """Never let this hold go from now on: its bytes are being worked on. Raise MemoryFull after the end."""
        if self.gone:
            raise MemoryFull
        self._budget.keep(self)

    def release(self) -> None:
        """End the hold. May be called again."""
        self._budget.end(self)


class MemoryBudget:
    """Counts holds in total, and for each network of addresses.

    Three quarters of ``total`` bytes are for what clients can make last: requests that are still arriving, answers that
    are not read. Without room, the largest hold of the largest network is let go, unless the one that asks is larger.
    A quarter is for ``work``, which ends by itself: what arrived can always be finished.

    One network gets at most ``per_network`` bytes, or one hold that is larger. Loopback addresses, and holds of no
    address (``""``), have no such limit: each hold counts as a network of its own.

    ``held`` is the number of bytes of all holds; ``refusals`` counts the holds that got no room, or were let go.
    """

    def __init__(self, total: int, per_network: int) -> None:
        self.work = WorkQueue(total // 4)
        self.held = self.refusals = 0
        self._room = total - total // 4
        self._per_network = per_network
        self._networks: dict[bytes, _Network] = {}
        self._by_size: BySize[_Network] = BySize()
        self._key_of = lru_cache(1_024)(network_of)

    @property
    def networks(self) -> int:
        """Return the number of networks for which something is held."""
        return len(self._networks)

    def hold(self, address: str, size: int, let_go: Callable[[], None] | None = None) -> Hold:
        """Return a hold of ``size`` bytes. Raise MemoryFull if there is no room.

        ``let_go`` is called if the hold must make room for others. It must return at once; the bytes may be dropped
        soon after. A hold without it is never let go.
        """
        hold = Hold(self, self._network_of(address), let_go)
        hold.network.count += 1
        try:
            hold.resize(size)
        except MemoryFull:
            hold.release()
            raise
        return hold

    def _network_of(self, address: str) -> _Network:
        key = self._key_of(address)
        if key is None:
            return _Network(None)
        network = self._networks.get(key)
        if network is None:
            network = self._networks[key] = _Network(key)
        return network

    # For Hold

    def grow(self, hold: Hold, size: int) -> None:
        try:
            self._make_room(hold, size)
        except MemoryFull:
            self.refusals += 1
            raise
        self.count(hold, size)

    def _make_room(self, hold: Hold, size: int) -> None:
        """Let holds go until ``hold`` may grow to ``size`` bytes. Raise MemoryFull if it may not."""
        network, more = hold.network, size - hold.size
        if size > self._room:
            raise MemoryFull
        while network.key is not None and network.held > hold.size and network.held + more > self._per_network:
            self._let_go_of(network, hold, size)
        while self.held + more > self._room:
            largest = self._by_size.largest() or network
            if (network.held + more).bit_length() > largest.loose.bit_length():
                largest = network
            self._let_go_of(largest, hold, size)

    def _let_go_of(self, network: _Network, asking: Hold, size: int) -> None:
        """Let go of the largest hold of a network. Raise MemoryFull if that is the one that asks, or a smaller one."""
        victim = network.by_size.largest()
        if victim is None or victim is asking or size.bit_length() > victim.size.bit_length():
            raise MemoryFull
        let_go = victim.let_go
        self.end(victim)
        self.refusals += 1
        if let_go is not None:
            let_go()

    def count(self, hold: Hold, size: int) -> None:
        """Note the new size of a hold."""
        network, before = hold.network, hold.size
        hold.size = size
        self.held += size - before
        network.held += size - before
        if hold.let_go is not None:
            self._count_loose(hold, before, size)

    def keep(self, hold: Hold) -> None:
        if hold.let_go is not None:
            self._count_loose(hold, hold.size, 0)
            hold.let_go = None

    def end(self, hold: Hold) -> None:
        if hold.gone:
            return
        self.count(hold, 0)
        hold.gone = True
        hold.let_go = None  # it refers to the owner
        hold.network.count -= 1
        if not hold.network.count and hold.network.key is not None:
            del self._networks[hold.network.key]

    def _count_loose(self, hold: Hold, before: int, after: int) -> None:
        network = hold.network
        network.by_size.move(hold, before, after)
        self._by_size.move(network, network.loose, network.loose + after - before)
        network.loose += after - before
