"""The worker of components: leases partitions of each group and gives each a greenlet that takes its turns."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import gevent
from gevent.event import Event

from pushsvc.broker.broker import Broker
from pushsvc.broker.components import GroupLeases
from pushsvc.broker.keys import is_statistics
from pushsvc.components import metrics
from pushsvc.components.consumer import Consumer
from pushsvc.components.handlers import Handlers
from pushsvc.components.messages import GroupOptions
from pushsvc.errors import Fenced, PushError
from pushsvc.settings import TopicRules
from pushsvc.worker.leases import Leases
from pushsvc.worker.policy import WorkerPolicy

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ComponentPolicy:
    """Times of a worker, in seconds."""

    poll: float = 0.05  # between two looks at the partitions
    replays: float = 1.0  # between two looks for events to replay, and updates of gauges
    retry_pause: float = 0.5  # before a partition that failed is tried again
    longest_wait: float = 30.0  # for a turn that is planned
    stop: float = 4.0  # for turns under way when the worker ends
    leases: WorkerPolicy = field(default_factory=WorkerPolicy)


class OwnedPartition:
    """A partition of a group and the greenlet that takes its turns."""

    def __init__(self, consumer: Consumer, lost: Callable[[], None], pause: float, longest: float) -> None:
        self.consumer = consumer
        self._lost, self._pause, self._longest = lost, pause, longest
        self.wake = Event()
        self.greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        """Let the greenlet end after its turn. What it does then is refused if another worker owns the partition."""
        self.consumer.stopped = True
        self.wake.set()

    def _run(self) -> None:
        consumer = self.consumer
        while not consumer.stopped:
            self.wake.clear()
            try:
                if not consumer.turn():
                    self.wake.wait(self._until_due())
            except Fenced as error:
                if not consumer.stopped:
                    log.warning("%s", error)
                    self._lost()
                return
            except PushError as error:
                log.warning("partition %d: %s", consumer.partition, error)
                gevent.sleep(self._pause)
            except Exception:
                log.exception("partition %d: a turn failed", consumer.partition)
                gevent.sleep(self._pause)

    def _until_due(self) -> float:
        due = self.consumer.is_due_at
        if due is None:
            return self._longest
        return min(max(0.0, (due - self.consumer.now) / 1_000), self._longest)


class ComponentWorker:
    """Runs the handlers of an application until ``stop``. ``on_begin`` is called once, when each group owns partitions
    and has begun in them."""

    def __init__(
        self, broker: Broker, rules: TopicRules, handlers: Handlers, policy: ComponentPolicy | None = None, *,
        on_begin: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self._broker, self._rules, self._handlers = broker, rules, handlers
        self._policy = policy or ComponentPolicy()
        self._groups = {options.name: options for options in handlers.hello.groups}
        self._owned: dict[tuple[str, int], OwnedPartition] = {}
        self._leases = {name: self._lease(name) for name in self._groups}
        self._sequences: dict[int, tuple[bytes | None, ...]] = {}
        self._on_begin, self._begun = on_begin, False
        self._stopping = Event()

    def stop(self) -> None:
        """Ask ``run`` to return; may be called from a signal handler."""
        self._stopping.set()

    def run(self) -> None:
        """Work until ``stop``."""
        for name in self._groups:
            with suppress(PushError):  # only the overview lacks it
                self._broker.components.register(name)
        loops = [gevent.spawn(leases.run) for leases in self._leases.values()]
        loops.append(gevent.spawn(self._look_for_replays))
        try:
            while not self._stopping.wait(self._policy.poll):
                self._note_begin()
                try:
                    self._poll()
                except PushError as error:
                    log.warning("the partitions cannot be read: %s", error)
                    self._stopping.wait(self._policy.retry_pause)
        finally:
            gevent.killall(loops)
            owned = list(self._owned.values())
            for one in owned:
                one.stop()
            gevent.joinall([one.greenlet for one in owned], timeout=self._policy.stop)
            for leases in self._leases.values():
                leases.close()
            self._handlers.close()

    def _note_begin(self) -> None:
        if self._begun or {group for group, _ in self._owned} != self._groups.keys():
            return
        if all(one.consumer.has_begun for one in self._owned.values()):
            self._begun = True
            self._on_begin()

    # Leases

    def _lease(self, group: str) -> Leases:
        return Leases(
            GroupLeases(self._broker.components, group), partial(self._adopt, group), partial(self._drop, group),
            self._policy.leases, metrics.OWNED.labels(group).set,
        )  # fmt: skip

    def _adopt(self, group: str, partition: int, fence: int) -> None:
        self._drop(group, partition)
        options: GroupOptions = self._groups[group]
        consumer = Consumer(self._broker, self._rules, self._handlers, options, partition, fence)
        lost = partial(self._lose, group, partition, consumer)
        policy = self._policy
        self._owned[group, partition] = OwnedPartition(consumer, lost, policy.retry_pause, policy.longest_wait)

    def _drop(self, group: str, partition: int) -> None:
        owned = self._owned.pop((group, partition), None)
        if owned is not None:
            owned.stop()

    def _lose(self, group: str, partition: int, consumer: Consumer) -> None:
        owned = self._owned.get((group, partition))
        if owned is not None and owned.consumer is consumer:
            self._leases[group].forget(partition)

    # News

    def _poll(self) -> None:
        """Wake the partitions whose logs have grown."""
        partitions = sorted({partition for _, partition in self._owned})
        if not partitions:
            return
        for partition, state in zip(partitions, self._broker.components.sequences(partitions), strict=True):
            before = self._sequences.get(partition)
            if state != before:
                self._find_changed(partition, before, state)

    def _find_changed(
        self, partition: int, before: tuple[bytes | None, ...] | None, state: tuple[bytes | None, ...]
    ) -> None:
        """Tell the owners of a partition which logs have changed; all may have in a new epoch."""
        if before is None or before[0] != state[0]:
            topics = list(self._broker.topics_of(partition))
        else:
            after, topics, more = int(before[1] or 0), [], True
            while more:
                found = self._broker.changed(partition, after)
                topics += [name for name in found.sequences if not is_statistics(name)]
                after, more = found.through, found.more
        self._sequences[partition] = state
        if not topics:
            return
        for (_, number), owned in list(self._owned.items()):
            if number == partition:
                owned.consumer.changed(topics)
                owned.wake.set()

    def _look_for_replays(self) -> None:
        """Regularly look for events to replay, and update the gauges."""
        while True:
            gevent.sleep(self._policy.replays)
            try:
                for name in self._groups:
                    self._look(name)
            except PushError as error:
                log.warning("replays cannot be read: %s", error)

    def _look(self, group: str) -> None:
        owned = {number: one for (name, number), one in list(self._owned.items()) if name == group}
        metrics.LAG.labels(group).set(sum(one.consumer.lag for one in owned.values()))
        metrics.STATES.labels(group).set(sum(one.consumer.states for one in owned.values()))
        metrics.PARKED.labels(group).set(sum(one.consumer.parked.count for one in owned.values()))
        for number, waits in zip(owned, self._broker.components.waiting_replays(group, list(owned)), strict=True):
            if waits:
                owned[number].consumer.replay()
                owned[number].wake.set()
