"""How many streams a subject or an address has, in all processes together.

A process reserves room in Redis in steps of a tenth of the limit, and renews its reservations. It uses the first step
before it reserves one, so that most subjects and addresses cost Redis nothing; a limit below ten is exact. While Redis
is away, each process counts alone.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from functools import partial
from hashlib import blake2b

import gevent
from gevent.event import Event as GeventEvent

from pushsvc.auth.grants import Grants
from pushsvc.broker.rates import RateStore, Reservation
from pushsvc.errors import PushError, TooManyRequests
from pushsvc.web import metrics
from pushsvc.web.rates.accounts import Account
from pushsvc.web.rates.limits import Rate

log = logging.getLogger(__name__)

_LIFETIME = 30.0  # seconds for which a reservation holds: so long the streams of a killed process count
_RENEWAL = _LIFETIME / 3
_AT_ONCE = 500  # reservations of one round trip
_WAIT = 5.0  # seconds after which a refused client should come again


class _Held:
    """The streams of one subject or address. ``reserved`` is how many Redis counts; ``asking`` is set while it is
    asked."""

    __slots__ = ("asking", "count", "rate", "reserved")

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self.count = self.reserved = 0
        self.asking: GeventEvent | None = None

    @property
    def room(self) -> int:
        return max(self.reserved, self.rate.free)

    @property
    def wanted(self) -> int:
        """How many streams to reserve: none if the free ones suffice, else whole steps."""
        return 0 if self.count <= self.rate.free else -(-self.count // self.rate.slice) * self.rate.slice


class StreamCounts:
    """The streams of this process, by subject and address."""

    def __init__(self, store: RateStore) -> None:
        self._store = store
        self._process = os.urandom(8).hex()
        self._held: dict[str, _Held] = {}
        self._surplus: set[str] = set()
        self._surplus_noted = GeventEvent()
        self._renewing = False

    def acquire(self, who: str, rate: Rate) -> Callable[[], None]:
        """Count a stream; return what ends it. Raise TooManyRequests. May wait for Redis."""
        while True:
            held = self._held.get(who)
            if held is None:
                held = self._held[who] = _Held(rate)
            held.rate = rate
            if held.count < held.room:
                held.count += 1
                return _Release(self, who, held)
            if held.asking is not None:
                held.asking.wait()
            elif not self._reserve(who, held):
                metrics.LIMITED.labels(limit=rate.name).inc()
                whose = who.partition(":")[0]
                detail = f"more than {rate.quota} streams of your {whose}"
                raise TooManyRequests(detail, rate.name, rate.quota, _WAIT, None)

    def release(self, who: str, held: _Held) -> None:
        held.count -= 1
        if held.reserved > held.wanted:
            self._surplus.add(who)
            self._surplus_noted.set()
        else:
            self._forget(who, held)

    def _forget(self, who: str, held: _Held) -> None:
        if not (held.count or held.reserved or held.asking):
            self._held.pop(who, None)

    def _reserve(self, who: str, held: _Held) -> bool:
        """Reserve room for one more stream; return whether there is some."""
        if not self._renewing:
            self._renewing = True
            gevent.spawn(self._renew)
        asking = held.asking = GeventEvent()
        wanted = -(-(held.count + 1) // held.rate.slice) * held.rate.slice
        try:
            [held.reserved] = self._store.reserve(self._process, [Reservation(who, wanted, held.rate.quota)], _LIFETIME)
        except PushError:
            held.reserved = held.rate.quota  # until Redis answers again
        finally:
            held.asking = None
            asking.set()
        return held.count < held.room

    def _renew(self) -> None:
        """Renew reservations, and give back those that are not needed."""
        while True:
            self._surplus_noted.wait(_RENEWAL)
            names = list(self._surplus) if self._surplus_noted.is_set() else list(self._held)
            self._surplus_noted.clear()
            self._surplus.clear()
            for start in range(0, len(names), _AT_ONCE):
                self._set(names[start : start + _AT_ONCE])

    def _set(self, names: list[str]) -> None:
        known = [(who, held) for who in names if (held := self._held.get(who)) and not held.asking]
        reserved = [(who, held) for who, held in known if held.reserved]
        asking = GeventEvent()
        for _, held in reserved:
            held.asking = asking
        wanted = [Reservation(who, held.wanted, held.rate.quota) for who, held in reserved]
        try:
            got = self._store.reserve(self._process, wanted, _LIFETIME) if wanted else []
            for (_, held), room in zip(reserved, got, strict=True):
                held.reserved = room
        except PushError as error:
            log.debug("reservations were not renewed: %s", error)  # the next round tries again
        finally:
            for _, held in reserved:
                held.asking = None
            asking.set()
        for who, held in known:
            self._forget(who, held)


class _Release:
    """Ends a stream, once."""

    __slots__ = ("_counts", "_held", "_who")

    def __init__(self, counts: StreamCounts, who: str, held: _Held) -> None:
        self._counts: StreamCounts | None = counts
        self._who, self._held = who, held

    def __call__(self) -> None:
        counts, self._counts = self._counts, None
        if counts is not None:
            counts.release(self._who, self._held)


def hold(counts: StreamCounts, accounts: Iterable[Account], grants: Grants | None = None) -> Callable[[], None] | None:
    """Count a stream in each of the accounts that has a limit, and in that of its grants; return what ends it, None
    without a limit. Raise TooManyRequests; then it counts in none."""
    limits = [(account.who, account.streams) for account in accounts if account.streams is not None]
    if grants is not None and grants.connections is not None:
        subject = blake2b(grants.subject.encode(), digest_size=16).hexdigest()
        limits.append((f"token:{subject}", Rate("streams-of-token", grants.connections)))
    held: list[Callable[[], None]] = []
    try:
        for who, rate in limits:
            held.append(counts.acquire(who, rate))
    except BaseException:
        call_all(held)
        raise
    return partial(call_all, held) if held else None


def call_all(calls: Iterable[Callable[[], None]]) -> None:
    for call in calls:
        call()
