"""Posts raised and resolved alerts to their webhooks: a consumer of the topic of alerts.

The owner of that topic's partition runs it. A delivery is made at least once: the position is stored behind what every
receiver has taken, so a successor may repeat some, with the same ``webhook-id``.
"""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

import gevent
import orjson
from gevent.event import Event as Signal
from gevent.lock import BoundedSemaphore
from prometheus_client import Counter

from pushsvc.alerts.rule import ALERTS_TOPIC, AlertRule, InvalidAlert
from pushsvc.alerts.webhook import WebhookPolicy, signed_headers
from pushsvc.broker.broker import Broker
from pushsvc.broker.checkpoints import Owner
from pushsvc.broker.keys import Log
from pushsvc.broker.log import NO_ENTRIES, EventsEntry
from pushsvc.errors import PushError
from pushsvc.worker.alerts.post import NotDelivered, post
from pushsvc.worker.partition import Partition

log = logging.getLogger(__name__)

WEBHOOKS = Counter("pushsvc_webhooks_total", "Webhooks of alerts, and attempts that failed", ["result"])


@dataclass(frozen=True, slots=True)
class DeliveryPolicy:
    """Times are in seconds. ``delays`` are the pauses between the attempts for one alert, which is then given up;
    ``waiting`` deliveries of a URL are kept, and ``at_once`` are under way."""

    timeout: float = 15.0
    delays: tuple[float, ...] = (5, 30, 120, 600, 1_800, 3_600)
    waiting: int = 1_000
    at_once: int = 20
    poll: float = 1.0


@dataclass(frozen=True, slots=True)
class _Delivery:
    offset: int
    id: str
    body: bytes


@dataclass(slots=True)
class _Receiver:
    """The deliveries to one URL, in the order of their alerts; the first one is under way."""

    waiting: deque[_Delivery] = field(default_factory=deque)
    running: gevent.Greenlet[..., None] | None = None


@dataclass(slots=True)
class _Consumer:
    """What an owner has read. ``stored`` is the position in Redis."""

    owner: Owner
    position: int
    stored: int | None
    receivers: dict[str, _Receiver] = field(default_factory=dict)

    @property
    def delivered(self) -> int:
        """The offset up to which nothing waits."""
        waiting = [receiver.waiting[0].offset for receiver in self.receivers.values() if receiver.waiting]
        return min(waiting, default=self.position + 1) - 1

    def end(self) -> None:
        for receiver in self.receivers.values():
            if receiver.running is not None:
                receiver.running.kill(block=False)


class WebhookSender:
    """Runs beside the worker's loop; ``rules()`` returns the alerts by name."""

    def __init__(
        self, broker: Broker, rules: Callable[[], Mapping[str, AlertRule]], partitions: Mapping[int, Partition],
        hosts: WebhookPolicy, policy: DeliveryPolicy | None = None,
    ) -> None:  # fmt: skip
        self._broker = broker
        self._rules = rules
        self._partitions = partitions
        self._hosts = hosts
        self._policy = policy or DeliveryPolicy()
        self._places = BoundedSemaphore(self._policy.at_once)
        self._consumer: _Consumer | None = None
        self._has_begun = False
        self._log = Log(ALERTS_TOPIC)
        self.due = Signal()

    def run(self) -> None:
        """Post what is raised until the greenlet is killed."""
        if not self._hosts.hosts or not self._hosts.secret:
            return
        while True:
            try:
                self.step()
            except PushError as error:
                log.warning("webhooks: %s", error)
            except Exception:
                log.exception("webhooks")
            self.due.wait(self._policy.poll)
            self.due.clear()

    def close(self) -> None:
        """End the deliveries that are under way."""
        if self._consumer is not None:
            self._consumer.end()
            self._consumer = None

    def step(self) -> None:
        """Read new alerts, hand them to the receivers, and store the position. Raise errors of ``pushsvc.errors``."""
        partition = self._partitions.get(self._log.partition)
        owner = None if partition is None or partition.ended else partition.owner
        if self._consumer is not None and owner != self._consumer.owner:
            self.close()
        if owner is None:
            return
        if self._consumer is None:
            self._consumer = self._begin(owner)
        consumer = self._consumer
        more = True
        while more:
            read = self._broker.read(owner.partition, {self._log: consumer.position}).logs[self._log]
            for entry in read.entries:
                self._take(consumer, entry)
                consumer.position = max(consumer.position, entry.last)
            more = read.more
        if consumer.delivered != consumer.stored:
            self._broker.alerts.commit_delivered(owner, consumer.delivered)
            consumer.stored = consumer.delivered

    def _begin(self, owner: Owner) -> _Consumer:
        """Return a consumer that goes on after the stored position; the first of all begins at the end of the log."""
        stored = self._broker.alerts.load(owner.partition).delivered
        after = stored
        if after is None:  # a Redis that has lost the position has lost all alerts of before, too
            after = 0 if self._has_begun else NO_ENTRIES
        last = self._broker.read(owner.partition, {self._log: after}).logs[self._log].last
        self._has_begun = True
        # Redis may have lost what was delivered: offsets then begin again below the position.
        return _Consumer(owner, last if after == NO_ENTRIES else min(after, last), stored)

    def _take(self, consumer: _Consumer, entry: EventsEntry) -> None:
        rules = self._rules()
        for offset, event in zip(range(entry.first, entry.last + 1), entry.events, strict=True):
            rule = rules.get(event.key or "")
            if offset <= consumer.position or rule is None or rule.webhook is None:
                continue
            public = event.public(ALERTS_TOPIC, offset, entry.arrival)
            body = orjson.dumps({"type": f"alert.{event.type}", "timestamp": public["time"], "data": public})
            receiver = consumer.receivers.setdefault(rule.webhook, _Receiver())
            if len(receiver.waiting) >= self._policy.waiting:
                WEBHOOKS.labels(result="dropped").inc()
                continue
            receiver.waiting.append(_Delivery(offset, _header_id(event.id or f"${offset}"), body))
            if receiver.running is None:
                receiver.running = gevent.spawn(self._deliver_all, consumer, rule.webhook, receiver)

    def _deliver_all(self, consumer: _Consumer, url: str, receiver: _Receiver) -> None:
        """Deliver what waits for one URL, in order."""
        try:
            while receiver.waiting:
                self._deliver(url, receiver.waiting[0])
                receiver.waiting.popleft()
        finally:
            receiver.running = None
        consumer.receivers.pop(url, None)
        self.due.set()

    def _deliver(self, url: str, delivery: _Delivery) -> None:
        """Try until it is taken, or given up."""
        for delay in (*self._policy.delays, None):
            try:
                with self._places:
                    self._post(url, delivery)
                WEBHOOKS.labels(result="delivered").inc()
                return
            except NotDelivered as error:
                WEBHOOKS.labels(result="failed").inc()
                given_up = error.is_final or delay is None
                log.warning(
                    "webhook of %s %s: %s", delivery.id, "given up" if given_up else f"again in {delay:g} s", error
                )
                if given_up:
                    WEBHOOKS.labels(result="given_up").inc()
                    return
                gevent.sleep((delay or 0.0) * random.uniform(0.9, 1.1))

    def _post(self, url: str, delivery: _Delivery) -> None:
        try:
            parts = self._hosts.check(url)
        except InvalidAlert as error:  # the settings have changed
            raise NotDelivered(str(error), is_final=True) from None
        signed = signed_headers(self._hosts.secret, delivery.id, int(time.time()), delivery.body)
        headers = {"Content-Type": "application/json", "User-Agent": "pushsvc", **signed}
        post(parts, self._hosts, headers, delivery.body, self._policy.timeout)


def _header_id(id: str) -> str:
    """Return the id of an event as the header of a request can hold it."""
    return id if id.isascii() else quote(id)
