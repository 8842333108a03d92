"""What each subject and each address may still do in this process.

A process draws the allowance of about 100 ms from Redis, uses it up, and then draws again: most requests cost a
comparison and a subtraction. The first slice is used before it is drawn, so that a client who asks now and then costs
Redis nothing. The processes together may exceed a limit by one slice each. While Redis is away, each process grants
the whole limit itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from functools import lru_cache, partial
from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Address, ip_address
from math import inf

import gevent
from gevent.event import Event as GeventEvent

from pushsvc.broker.rates import RateStore
from pushsvc.errors import PushError, TooManyRequests
from pushsvc.event import Limits
from pushsvc.web import metrics
from pushsvc.web.rates.limits import Rate, RateLimits

log = logging.getLogger(__name__)

KNOWN = 100_000
"""Subjects and addresses that a process remembers; of more, the one that was used least recently is forgotten. Then
its next slice is free."""

_PARSED = 4_096  # addresses whose account is found without reading them
_LOCAL = 1_000  # accounts of this machine
_PATIENCE = 0.2  # seconds to wait for Redis; after that the process grants the limit itself
_PAUSE = 1.0  # seconds after a failure until Redis is asked again


class Allowance:
    """How much of one rate is ``left``, below 0 after a large batch. ``undrawn`` was granted before it was drawn.

    Nothing is left before ``refused_until``. ``drawing`` is set while Redis is asked. Times are monotonic seconds.
    """

    __slots__ = ("drawing", "drawn_at", "left", "rate", "refused_until", "undrawn", "who")

    def __init__(self, rate: Rate, who: str) -> None:
        self.rate = rate
        self.who = who
        self.left: float = rate.free
        self.undrawn = rate.free
        self.refused_until = 0.0
        self.drawn_at = -inf
        self.drawing: GeventEvent | None = None


class Account:
    """The allowances of one subject or address, each made when it is first used."""

    __slots__ = ("_accounts", "_connections", "_events", "_requests", "limits", "who")

    def __init__(self, accounts: Accounts, who: str, limits: RateLimits) -> None:
        self._accounts = accounts
        self.who = who
        self.limits = limits
        self._requests: Allowance | None = None
        self._events: Allowance | None = None
        self._connections: Allowance | None = None

    @property
    def streams(self) -> Rate | None:
        """The limit of its streams."""
        of_subject = self.who.startswith("subject:")
        return self.limits.streams_of_subject if of_subject else self.limits.streams_of_address

    def count_request(self) -> None:
        """Count a request; raise TooManyRequests. May wait for Redis."""
        own = self._requests or self._of_requests()
        if own is not None:
            if own.left < 1:
                self._accounts.refill(own)
            own.left -= 1

    def check_events(self) -> None:
        """Raise TooManyRequests if no events are left at the moment. Does not wait."""
        own = self._events
        if own is not None and own.left < 1 and time.monotonic() < own.refused_until:
            raise _refusal(own)

    def count_events(self, count: int) -> None:
        """Count the events of a request; raise TooManyRequests if none is left. May wait for Redis.

        A batch may be larger than what is left: then the next ones wait until the rate has made up for it.
        """
        own = self._events or self._of_events()
        if own is not None:
            if own.left < 1:
                self._accounts.refill(own)
            own.left -= count
            if own.left < 0:
                self._accounts.report(own)

    def count_connection(self) -> None:
        """Count a connection; raise TooManyRequests. May wait for Redis."""
        if self._connections is None and self.limits.connections is not None:
            self._connections = Allowance(self.limits.connections, self.who)
        if (own := self._connections) is not None:
            if own.left < 1:
                self._accounts.refill(own)
            own.left -= 1

    @property
    def refuses_connections(self) -> bool:
        """Whether a connection was refused, and another one would be."""
        own = self._connections
        return own is not None and own.left < 1 and time.monotonic() < own.refused_until

    def has_posts(self, count: int) -> bool:
        """Return whether so many requests with one event each are left. Does not wait."""
        requests, events = self._requests or self._of_requests(), self._events or self._of_events()
        return (requests is None or requests.left >= count) and (events is None or events.left >= count)

    def count_posts(self, count: int) -> None:
        """Count requests with one event each, a negative number for those that are read again."""
        if self._requests is not None:
            self._requests.left -= count
        if self._events is not None:
            self._events.left -= count

    def _of_requests(self) -> Allowance | None:
        if self._requests is None and self.limits.requests is not None:
            self._requests = Allowance(self.limits.requests, self.who)
        return self._requests

    def _of_events(self) -> Allowance | None:
        if self._events is None and self.limits.events is not None:
            self._events = Allowance(self.limits.events, self.who)
        return self._events


class Accounts:
    """The accounts that a process knows, at most ``known`` of each kind."""

    def __init__(self, store: RateStore, limits: Limits, known: int = KNOWN) -> None:
        self._store = store
        self._general = RateLimits.of(limits)
        self._loopback = RateLimits.of(limits, loopback=True)
        self._account = lru_cache(known)(partial(Account, self, limits=self._general))
        self._local_account = lru_cache(_LOCAL)(partial(Account, self, limits=self._loopback))
        self._direct = lru_cache(_PARSED)(partial(self._find, forwarded=False))
        self._forwarded = lru_cache(_PARSED)(partial(self._find, forwarded=True))
        self._retry_at = 0.0

    @property
    def known(self) -> int:
        """How many subjects and addresses the process remembers."""
        return self._account.cache_info().currsize

    def of_address(self, address: str, *, forwarded: bool = False) -> tuple[Account, ...]:
        """Return the account of an address; none for what is no address, and for this machine if it has no limits.

        Of an IPv6 address the first 64 bits count. ``forwarded``: a proxy named the address, so it is none of this
        machine even if it says so.
        """
        return self._forwarded(address) if forwarded else self._direct(address)

    def of_subject(self, subject: str, *, loopback: bool = False) -> tuple[Account, ...]:
        """Return the account of a subject; none for a program of this machine if it has no limits.

        Keys in Redis have a digest of the subject.
        """
        who = f"subject:{blake2b(subject.encode(), digest_size=16).hexdigest()}"
        return self._of_this_machine(who) if loopback else (self._account(who),)

    def _find(self, address: str, forwarded: bool) -> tuple[Account, ...]:
        ip = _read(address)
        if ip is None:
            return ()
        if ip.is_loopback and not forwarded:
            return self._of_this_machine(f"address:{ip}")
        who = f"address:{ip}" if ip.version == 4 else f"address:{ip_address(int(ip) >> 64 << 64)}/64"
        return (self._account(who),)

    def _of_this_machine(self, who: str) -> tuple[Account, ...]:
        return () if self._loopback == RateLimits() else (self._local_account(who),)

    def refill(self, own: Allowance) -> None:
        """Return when something is left; raise TooManyRequests. One greenlet draws, the others wait for it."""
        while own.left < 1:
            now = time.monotonic()
            if now < own.refused_until:
                raise _refusal(own)
            if now < self._retry_at:
                self._grant_here(own, now)
                continue
            if (drawing := own.drawing) is None:
                drawing = own.drawing = GeventEvent()
                gevent.spawn(self._draw, own, drawing)
            if not drawing.wait(_PATIENCE):
                self._retry_at = time.monotonic() + _PAUSE
                self._grant_here(own, time.monotonic())

    def report(self, own: Allowance) -> None:
        """Tell the other processes of a large debt, without waiting."""
        if own.left < -own.rate.slice and own.drawing is None and time.monotonic() >= self._retry_at:
            own.drawing = GeventEvent()
            gevent.spawn(self._draw, own, own.drawing)

    def _draw(self, own: Allowance, done: GeventEvent) -> None:
        debt, undrawn = max(0, -own.left), own.undrawn
        own.left, own.undrawn = max(own.left, 0), 0
        try:
            granted, wait = self._store.draw(
                own.rate.name, own.who, rate=own.rate.quota, spent=int(undrawn + debt), wanted=own.rate.slice
            )
            own.left += granted
            own.drawn_at = time.monotonic()
            own.refused_until = own.drawn_at + wait
        except PushError as error:  # one that may not be used, too: requests must not fail for it
            now = time.monotonic()
            if now >= self._retry_at:
                log.warning("limits are not shared with other processes for now: %s", error.title)
            self._retry_at = now + _PAUSE
            own.left -= debt
            self._grant_here(own, now)
        finally:
            own.drawing = None
            done.set()

    @staticmethod
    def _grant_here(own: Allowance, now: float) -> None:
        """Grant what the rate gives since the last time, at most that of a second."""
        own.left += min(1.0, now - own.drawn_at) * own.rate.quota
        own.left = min(own.left, own.rate.quota)
        own.drawn_at = now
        own.refused_until = now + (max(0.0, 1 - own.left) / own.rate.quota)


def try_posts(accounts: Sequence[Account], count: int) -> bool:
    """Count requests with one event each, and return True, if all accounts have so many left. Does not wait."""
    for account in accounts:
        if not account.has_posts(count):
            return False
    for account in accounts:
        account.count_posts(count)
    return True


@lru_cache(_PARSED)
def is_loopback(address: str) -> bool:
    ip = _read(address)
    return ip is not None and ip.is_loopback


def _read(address: str) -> IPv4Address | IPv6Address | None:
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return ip.ipv4_mapped or ip if isinstance(ip, IPv6Address) else ip


def _refusal(own: Allowance) -> TooManyRequests:
    metrics.LIMITED.labels(limit=own.rate.name).inc()
    rate, whose = own.rate, own.who.partition(":")[0]
    detail = f"more than {rate.quota} {rate.name} a second of your {whose}"
    return TooManyRequests(detail, rate.name, rate.quota, max(0.0, own.refused_until - time.monotonic()))
