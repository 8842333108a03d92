"""Publishes the events of alerts, and removes them from the outbox once they are in the log of their topic."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from itertools import islice

import gevent
from gevent.event import Event as Signal

from pushsvc.alerts.rule import ALERTS_TOPIC
from pushsvc.broker.alerts import AlertEvent
from pushsvc.broker.broker import Broker
from pushsvc.broker.keys import Log
from pushsvc.broker.limits import BrokerLimits
from pushsvc.errors import PushError
from pushsvc.event import Event
from pushsvc.settings import TopicRules
from pushsvc.worker.alerts.evaluator import AlertEvaluator
from pushsvc.worker.held_alerts import HeldAlerts
from pushsvc.worker.partition import Partition

log = logging.getLogger(__name__)

_AT_ONCE = 500
_POLL = 5.0  # seconds after which rules are read without a notification
_PAUSE = 0.5  # seconds after a failure
_TRUSTED_AGE = BrokerLimits().ids_window // 2  # ms for which ids alone tell that an event is in the log


class AlertSender:
    """Runs beside the worker's loop: keeps the rules current, and sends what the evaluator has stored."""

    def __init__(
        self, broker: Broker, rules: TopicRules, evaluator: AlertEvaluator, partitions: Mapping[int, Partition]
    ) -> None:
        self._broker = broker
        self._rules = rules
        self._evaluator = evaluator
        self._partitions = partitions
        self.due = Signal()
        self.on_sent: Callable[[], None] = lambda: None
        self.stale = True  # the rules may have changed

    def run(self) -> None:
        """Refresh and send until the greenlet is killed."""
        while True:
            try:
                self.refresh()
                self.send()
            except PushError as error:
                log.warning("alerts: %s", error)
                gevent.sleep(_PAUSE)
                continue
            except Exception:
                log.exception("alerts")
                gevent.sleep(_PAUSE)
                continue
            if not self.due.wait(_POLL):
                self.stale = True
            self.due.clear()

    def refresh(self) -> None:
        """Read the rules if they may have changed."""
        if self.stale:
            self.stale = False
            try:
                self._evaluator.refresh(list(self._partitions.values()))
            except BaseException:
                self.stale = True
                raise

    def send(self) -> None:
        """Send what the partitions hold. Raise the last error of ``pushsvc.errors``, after all were tried."""
        failure: PushError | None = None
        for partition in list(self._partitions.values()):
            try:
                while not partition.ended and (held := partition.alerts) is not None and held.outbox:
                    self._send(partition, held)
            except PushError as error:
                failure = error
        if failure is not None:
            raise failure

    def _send(self, partition: Partition, held: HeldAlerts) -> None:
        some = list(islice(held.outbox.values(), _AT_ONCE))
        # Another owner may have sent them. A restarted Redis may have lost them together with the states they report.
        unsent = self._broker.alerts.unsent(partition.number, [event.id for event in some])
        if unsent:
            self._publish([event for event in some if event.id in unsent], partition.now)
            self._broker.alerts.sent(partition.number, unsent)
        for event in some:
            held.outbox.pop(event.id, None)
        self.on_sent()

    def _publish(self, events: list[AlertEvent], now: int) -> None:
        old = [event for event in events if event.time < now - _TRUSTED_AGE]
        known = self._ids_since(min(event.time for event in old)) if old else set()
        found = [
            Event(event.id, event.type, event.time, event.key, event.data)
            for event in events
            if event.id not in known
        ]  # fmt: skip
        if found:
            self._broker.publish(ALERTS_TOPIC, found, self._rules.settings_of(ALERTS_TOPIC))

    def _ids_since(self, time: int) -> set[str]:
        """Return the ids of the alerts that were stored since ``time`` (ms): those of long ago are remembered only in
        the log."""
        of = Log(ALERTS_TOPIC)
        found: set[str] = set()
        after = max(0, self._broker.seek_arrival(ALERTS_TOPIC, time))
        while True:
            read = self._broker.read(of.partition, {of: after}).logs[of]
            for entry in read.entries:
                found.update(event.id for event in entry.events if event.id is not None)
                after = entry.last
            if not read.more or not read.entries:
                return found
