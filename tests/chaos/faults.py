"""A deck of all faults, shuffled by a seed; every fault is dealt once before any is repeated."""

from __future__ import annotations

import heapq
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from itertools import count

from chaos.site import AGGREGATOR, COMPONENTS, WEB, Site, send
from pushsvc.worker.policy import WorkerPolicy
from support.proxy import Last, Proxy

Undo = Callable[[], None]
_LEASE = WorkerPolicy().lease


class Faults:
    """Deals faults with pauses up to ``pause`` seconds between them; undoes lasting faults after their time."""

    def __init__(self, site: Site, chance: random.Random, pause: float) -> None:
        self.counts: Counter[str] = Counter()
        self._pause = pause
        self._site = site
        self._chance = chance
        self._deck: list[str] = []
        self._undos: list[tuple[float, int, Undo]] = []
        self._numbers = count()

    def deal_for(self, seconds: float) -> None:
        """Deal faults for a time, but each at least once; return when all are undone."""
        end = time.monotonic() + seconds
        missing = set(FAULTS)
        due = 0.0
        while missing or time.monotonic() < end:
            if time.monotonic() >= due:
                missing.discard(self._deal())
                due = time.monotonic() + self._chance.uniform(self._pause / 4, self._pause)
            self._turn()
        while self._undos:
            self._turn()

    def _deal(self) -> str:
        """Deal the next fault and return its name; return '' if its target does not run now."""
        if not self._deck:
            self._deck = sorted(FAULTS)
            self._chance.shuffle(self._deck)
        name = self._deck.pop()
        if not FAULTS[name](self, self._site, self._chance):
            self._deck.insert(0, name)
            return ""
        self.counts[name] += 1
        return name

    def _turn(self) -> None:
        """Undo faults whose time is over, restart processes that ended, and sleep for a moment."""
        while self._undos and self._undos[0][0] <= time.monotonic():
            heapq.heappop(self._undos)[2]()
        self._site.tend()
        time.sleep(0.02)

    def undo_after(self, seconds: float, undo: Undo) -> None:
        heapq.heappush(self._undos, (time.monotonic() + seconds, next(self._numbers), undo))


Fault = Callable[[Faults, Site, random.Random], bool]


def kill_child(role: str) -> Fault:
    return lambda faults, site, chance: site.signal_one(role, signal.SIGKILL) is not None


def kill_supervisor(name: str) -> Fault:
    def fault(faults: Faults, site: Site, chance: random.Random) -> bool:
        site.kill_supervisor(name)
        return True

    return fault


def stop_child(role: str, least: float, most: float) -> Fault:
    def fault(faults: Faults, site: Site, chance: random.Random) -> bool:
        pid = site.signal_one(role, signal.SIGSTOP)
        if pid is not None:
            faults.undo_after(chance.uniform(least, most), lambda: send(pid, signal.SIGCONT) and None)
        return pid is not None

    return fault


def kill_redis(faults: Faults, site: Site, chance: random.Random) -> bool:
    killed = site.servers.kill()
    if killed:
        faults.undo_after(chance.uniform(0, 1.5), site.servers.recover)
    return killed


def fill_disk(faults: Faults, site: Site, chance: random.Random) -> bool:
    site.servers.fill_disk()
    faults.undo_after(chance.uniform(1, 3), site.servers.empty_disk)
    return True


def cut(proxy: Callable[[Site], Proxy], direction: str) -> Fault:
    """For 0.3 s, cut every connection that sends data in the middle of this data."""

    def fault(faults: Faults, site: Site, chance: random.Random) -> bool:
        target, share = proxy(site), chance.random()
        setattr(target, direction, lambda data: Last(data[: int(len(data) * share)]))
        faults.undo_after(0.3, lambda: setattr(target, direction, lambda data: data))
        return True

    return fault


def silence(faults: Faults, site: Site, chance: random.Random) -> bool:
    site.to_redis.mute_subscribers = True
    faults.undo_after(chance.uniform(1, 8), lambda: setattr(site.to_redis, "mute_subscribers", False))
    return True


FAULTS: dict[str, Fault] = {
    "web worker killed": kill_child("_web"),
    "web supervisor killed": kill_supervisor(WEB),
    "web worker stopped": stop_child("_web", 0.5, 4),
    "aggregator killed": kill_child("_aggregator"),
    "aggregator supervisor killed": kill_supervisor(AGGREGATOR),
    "aggregator stopped": stop_child("_aggregator", _LEASE + 0.5, _LEASE + 2),
    "Redis killed": kill_redis,
    "disk full": fill_disk,
    "shard killed": kill_child("_shard"),
    "shard stopped": stop_child("_shard", 0.5, 4),
    "component worker killed": kill_child("_worker"),
    "component worker stopped": stop_child("_worker", _LEASE + 0.5, _LEASE + 2),
    "component handlers killed": kill_child("_components"),
    "component supervisor killed": kill_supervisor(COMPONENTS),
    "requests to Redis cut": cut(lambda site: site.to_redis, "upward"),
    "answers of Redis cut": cut(lambda site: site.to_redis, "downward"),
    "requests of clients cut": cut(lambda site: site.to_web, "upward"),
    "answers to clients cut": cut(lambda site: site.to_web, "downward"),
    "live connections silenced": silence,
}
