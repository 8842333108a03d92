"""Requests that take long: a few at a time, fairly by address, in slices between which the event loop serves others.

A scan of a log, a table and a large body take up to seconds of computation. The loop of a process has only one thread,
so they pause after each slice. Few have a seat at the same time: that bounds their memory, and the slices in a turn of
the loop.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from flask import Request
from gevent import get_hub
from gevent.event import Event

from pushsvc.errors import Busy, ClientGone
from pushsvc.pause import Pause, no_pause
from pushsvc.web import metrics
from pushsvc.web.rates.accounts import Account

CLIENT = "pushsvc.client"
"""``environ[CLIENT]`` is the Requester of a request. The key is absent if the server does not know it."""


@dataclass(frozen=True, slots=True)
class LongLimits:
    """``readers`` requests scan or make tables, ``writers`` requests have their body read, and ``statistics`` requests
    read large statistics, at the same time.

    Statistics above ``large_statistics`` bytes of Redis need a seat, and so does a body above ``body`` bytes; one up to
    ``short_body`` is read without a pause. A slice takes ``slice`` seconds, plus the step that crosses that time.
    """

    readers: int = 2
    writers: int = 1
    statistics: int = 1
    large_statistics: int = 200_000
    waiting: int = 1_000
    waiting_per_address: int = 100
    body: int = 100_000
    short_body: int = 4_000
    slice: float = 0.002


class Requester(NamedTuple):
    """The ``address`` that a request came from, and whether its connection is ``gone``.

    ``accounts`` are those of its limits, None if the server does not know them; ``local`` if it came from a program of
    this machine. ``at_close`` takes what is to be called when the connection has closed; it is None under another
    server.
    """

    address: str
    gone: Callable[[], bool]
    accounts: tuple[Account, ...] | None = None
    local: bool = False
    at_close: Callable[[Callable[[], None]], None] | None = None

    def count_request(self) -> None:
        """Count a request for its accounts; raise TooManyRequests. May wait for Redis."""
        for account in self.accounts or ():
            account.count_request()

    def check_events(self) -> None:
        """Raise TooManyRequests if no events are allowed at the moment."""
        for account in self.accounts or ():
            account.check_events()

    def count_events(self, count: int) -> None:
        """Count events before they are stored; raise TooManyRequests. May wait for Redis."""
        for account in self.accounts or ():
            account.count_events(count)


UNKNOWN = Requester("", lambda: False)


def client_of(request: Request) -> Requester:
    """Return the client of a request."""
    client: Requester = request.environ.get(CLIENT) or Requester(request.remote_addr or "", UNKNOWN.gone)
    return client


class LongRequests:
    """The seats of a process for long requests. ``slices`` counts the pauses."""

    def __init__(self, limits: LongLimits | None = None) -> None:
        self.limits = limits = limits or LongLimits()
        self.readers = Seats(limits.readers, limits.waiting, limits.waiting_per_address)
        self.writers = Seats(limits.writers, limits.waiting, limits.waiting_per_address)
        self.statistics = Seats(limits.statistics, limits.waiting, limits.waiting_per_address)
        self.slices = 0

    @contextmanager
    def reading(self, client: Requester) -> Iterator[Pause]:
        """Wait for a seat and yield a pause, which raises ClientGone if the client is gone. Raise Busy if too many
        wait."""
        with self.readers.seat(client.address):
            yield self.pauses(client.gone)

    @contextmanager
    def writing(self, client: Requester) -> Iterator[Pause]:
        """Do the same for a large body. It is read to its end: a producer need not wait for the answer."""
        with self.writers.seat(client.address):
            yield self.pauses()

    @contextmanager
    def reading_statistics(self, client: Requester, size: int | None) -> Iterator[Pause]:
        """Do as ``reading`` for statistics of about ``size`` bytes (None: unknown); small ones are read at once."""
        if size is not None and size <= self.limits.large_statistics:
            yield no_pause
            return
        with self.statistics.seat(client.address):
            yield self.pauses(client.gone)

    def pauses(self, gone: Callable[[], bool] = UNKNOWN.gone) -> Pause:
        """Return a pause for one request, which raises ClientGone if its client is ``gone``."""
        length, end = self.limits.slice, 0.0

        def check() -> None:
            if gone():
                metrics.ABANDONED.inc()
                raise ClientGone("the client closed its connection")

        def pause() -> None:
            nonlocal end
            if time.monotonic() < end:
                return
            hub = get_hub()
            hub.wait(hub.loop.timer(0))  # gevent.sleep(0) would return before any socket is polled
            check()
            self.slices += 1
            end = time.monotonic() + length

        check()  # it may have gone while it waited for the seat
        end = time.monotonic() + length
        return pause


class Seats:
    """``free`` seats. Requests that wait for one get it by turns of their addresses, those of an address in order."""

    def __init__(self, free: int, waiting: int, waiting_per_address: int) -> None:
        self.free = free
        self.waiting = 0
        self._most = waiting
        self._most_per_address = waiting_per_address
        self._queues: dict[str, deque[Event]] = {}

    @contextmanager
    def seat(self, address: str) -> Iterator[None]:
        """Wait for a seat and keep it; raise Busy if too many wait."""
        if self.free:
            self.free -= 1
        else:
            self._wait(address)
        try:
            yield
        finally:
            self._pass_on()

    def _wait(self, address: str) -> None:
        queue = self._queues.get(address, ())
        if self.waiting >= self._most or len(queue) >= self._most_per_address:
            metrics.BUSY.inc()
            raise Busy("too many long requests wait; repeat this one later")
        turn = Event()
        self._queues.setdefault(address, deque()).append(turn)
        self.waiting += 1
        try:
            turn.wait()
        except BaseException:
            if turn.is_set():
                self._pass_on()
            else:
                self._leave(address, turn)
            raise

    def _pass_on(self) -> None:
        """Give the seat to the first request of the address whose turn it is."""
        if not self._queues:
            self.free += 1
            return
        address = next(iter(self._queues))
        queue = self._queues.pop(address)
        turn = queue.popleft()
        if queue:
            self._queues[address] = queue  # behind all other addresses
        self.waiting -= 1
        turn.set()

    def _leave(self, address: str, turn: Event) -> None:
        queue = self._queues[address]
        queue.remove(turn)
        if not queue:
            del self._queues[address]
        self.waiting -= 1
