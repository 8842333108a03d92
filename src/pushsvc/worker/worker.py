"""Aggregates the partitions that this process owns: reads logs, moves the engines' clocks, writes statistics frames.

One script reads a log and Redis's time, so when everything is read an engine's clock may follow that time: no event
that arrived before it is still unread.
"""

import logging
import time
from collections.abc import Callable, Sequence

import gevent
from gevent.event import Event

from pushsvc.alerts.webhook import AlertSettings, WebhookPolicy
from pushsvc.broker.broker import Broker
from pushsvc.broker.keys import ENDED, TAGS, Log, is_statistics
from pushsvc.errors import Fenced, PushError, Unavailable
from pushsvc.event import Limits
from pushsvc.settings import TopicRules
from pushsvc.slices import Slices
from pushsvc.system_clock import ClockWatch, now_ms
from pushsvc.worker import metrics
from pushsvc.worker.alerts.evaluator import AlertEvaluator
from pushsvc.worker.alerts.sender import AlertSender
from pushsvc.worker.alerts.webhooks import WebhookSender
from pushsvc.worker.apply_entries import EntryApplier
from pushsvc.worker.checkpoints import Checkpointer
from pushsvc.worker.demand import topic_of
from pushsvc.worker.engine import EntryFailed, ShardLost
from pushsvc.worker.frame_writer import FrameWriter
from pushsvc.worker.ingest import Ingest
from pushsvc.worker.leases import Leases
from pushsvc.worker.lifetime import LifetimeCounter
from pushsvc.worker.partition import Partition
from pushsvc.worker.policy import WorkerPolicy
from pushsvc.worker.retention import Sweeper
from pushsvc.worker.room import Room
from pushsvc.worker.takeover import Takeover

log = logging.getLogger(__name__)

_INGEST_GOES_ON = 1.0  # seconds after a message of a producer


class AggregatorWorker:
    """An aggregator process. Several share the partitions evenly. ``run`` returns after ``stop``. ``on_begin`` is
    called when it owns a partition, and with each further one."""

    def __init__(
        self, broker: Broker, rules: TopicRules, limits: Limits | None = None, policy: WorkerPolicy | None = None,
        alerts: AlertSettings | None = None, on_begin: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self._broker = broker
        self._on_begin = on_begin
        self._policy = policy = policy or WorkerPolicy()
        self.partitions: dict[int, Partition] = {}
        self._by_tag = {tag: partition for partition, tag in enumerate(TAGS)}
        self._wake = Event()
        self._pace = QuietPace(policy.quiet_share, policy.quiet_pause)
        self._waits_until = 0.0  # monotonic time; 0 while there is work
        self._urgent = False  # a message arrived for which somebody waits, or may wait
        self._ingests_until = 0.0  # monotonic time up to which more messages of producers are expected
        self._stopping = False
        self._clock = ClockWatch()
        yield_to_loop = Slices(policy.yield_interval)
        self.room = Room(limits or Limits(), self.partitions)
        self._takeover = Takeover(broker, rules, yield_to_loop, policy, self.room)
        self._applier = EntryApplier(policy.run_bytes, yield_to_loop)
        self.frames = FrameWriter(broker)
        self.checkpointer = Checkpointer(broker.checkpoints, policy.checkpoints, self._on_engine_failure)
        self.lifetimes = LifetimeCounter(
            broker, rules, yield_to_loop, policy, self.room, self._applier, self.frames
        )  # fmt: skip
        self.leases = Leases(broker, self.adopt, self.drop, policy)
        self._ingest = Ingest(broker, rules, self.leases.fence_of, limits, policy.ingest_bytes)
        self.sweeper = Sweeper(broker, rules, self.leases.fences)
        self.alerts = AlertEvaluator(broker, rules, alerts.rules if alerts else ())
        self.alert_sender = AlertSender(broker, rules, self.alerts, self.partitions)
        policies = alerts.webhooks if alerts else WebhookPolicy()
        self.webhooks = WebhookSender(broker, lambda: self.alerts.by_name, self.partitions, policies)
        self.alert_sender.on_sent = self.webhooks.due.set
        self._live = broker.live_connection(self._on_message, self._on_connected, reading_pause=self._reading_pause)

    def stop(self) -> None:
        """Ask ``run`` to return; may be called from a signal handler."""
        self._stopping = True
        self._wake.set()

    def run(self) -> None:
        self._live.subscribe_pattern(f"{self._broker.keys.ingest}*")
        self._live.subscribe(self._broker.alerts.channel)
        self._live.start()
        runs = (self._ingest.run, self.leases.run, self.sweeper.run, self.alert_sender.run, self.webhooks.run)
        loops = [gevent.spawn(run) for run in runs]
        poll_at = 0.0
        try:
            while not self._stopping:
                self._wake.clear()
                busy = self.step()
                self.checkpointer.poll(self.partitions.values())
                self.lifetimes.poll(self.partitions.values())
                # Sockets and leases get a turn even if there is always more to read.
                gevent.sleep(0)
                if not busy:
                    wait = self._idle_time()
                    self._waits_until = time.monotonic() + wait
                    self._wake.wait(wait)
                    self._waits_until = 0.0
                if time.monotonic() > poll_at:
                    # A lost notification delays statistics by no more than this interval.
                    poll_at = time.monotonic() + self._policy.poll_interval
                    self.poll()
            self.checkpointer.finish(list(self.partitions.values()))
            self.lifetimes.finish(self.partitions.values())
        finally:
            self._live.close()
            gevent.killall(loops)
            self.webhooks.close()
            self.checkpointer.close()
            self.lifetimes.close()
            self.leases.close()  # last: nothing may be written once another process can take over

    def poll(self) -> None:
        """Let each partition look for changes whose notifications may be lost."""
        was_set = self._clock.was_set()
        for partition in self.partitions.values():
            partition.unsure = partition.loaded
            partition.skew_unsure |= was_set
        self.room.review()

    # Owning

    def adopt(self, number: int, fence: int) -> None:
        self._begin(Partition(number, fence))
        self._on_begin()

    def drop(self, number: int) -> None:
        partition = self.partitions.pop(number, None)
        if partition is not None:
            partition.end()
        self._live.unsubscribe(self._broker.keys.partition_channel(number))

    def _begin(self, partition: Partition) -> None:
        self.partitions[partition.number] = partition
        partition.demand.counted = self.alerts.topics
        self._live.subscribe(self._broker.keys.partition_channel(partition.number))
        self._wake.set()

    def _restart(self, partition: Partition, *, rebuild_from_log: bool, pause: float = 0.0) -> None:
        """Discard the engines of a partition and begin again after a pause (s), unless it was given away meanwhile."""
        partition.end()
        if self.partitions.get(partition.number) is partition:
            retry_at = time.monotonic() + pause
            self._begin(Partition(partition.number, partition.fence, rebuild_from_log, partition.poison, retry_at))

    # Notifications

    def _reading_pause(self) -> float:
        """Return for how many seconds what comes after the messages of a read may wait. What they are about waits for
        the next turn of quiet partitions anyway, unless one was urgent."""
        urgent, self._urgent = self._urgent, False
        return 0.0 if urgent or time.monotonic() < self._ingests_until else self._policy.reading_pause

    def _on_message(self, channel: str, data: bytes) -> bool:
        if channel.startswith(self._broker.keys.ingest):
            self._ingests_until = time.monotonic() + _INGEST_GOES_ON
            self._ingest.offer(channel.removeprefix(self._broker.keys.ingest), data)
            return True
        if channel == self._broker.alerts.channel:
            self.alert_sender.stale = True
            self.alert_sender.due.set()
            return True
        tag = channel[channel.index("{") + 1 : channel.index("}")]
        partition = self.partitions.get(self._by_tag[tag])
        if partition is not None:
            name = data.decode()
            if is_statistics(name):
                partition.ask(name, self._broker.demand.lifetime)
            elif name.startswith(ENDED):
                partition.note_ended(name.removeprefix(ENDED))
            elif name:
                if not partition.add_unread(name):
                    return True
            else:
                partition.loaded = False  # the subscription is new: topics may have been created before it
            urgent = partition.is_urgent
            self._urgent |= urgent
            if urgent or self._waits_until > self._pace.until:
                self._wake.set()
        return True

    def _on_connected(self, partitions: Sequence[int]) -> None:
        for number in partitions:
            if (partition := self.partitions.get(number)) is not None:
                partition.look_everywhere()
        self._wake.set()

    def _idle_time(self) -> float:
        """Return the seconds until a partition may have work, at most the poll interval."""
        waits = [self._policy.poll_interval]
        now = time.monotonic()
        quiet = self._pace.until - now
        for partition in self.partitions.values():
            if (pause := partition.retry_at - now) > 0:
                waits.append(pause)
                continue
            if partition.unread or partition.unsure:
                waits.append(0.0 if partition.hurried else quiet)
            if partition.alerts is not None and partition.alerts.wake_at is not None:
                waits.append(max((partition.alerts.wake_at - partition.now) / 1000, quiet))
            if partition.lifetime is not None:
                waits.append(self.lifetimes.idle_time(partition.lifetime, quiet))
            if partition.corrected:
                waits.append(partition.recounted_at + self._policy.recount_interval - now)
            if partition.wake is not None:
                wait = (partition.wake - partition.now) / 1000
                waits.append(wait if partition.watched else max(wait, quiet))
        return max(0.001, min(waits))

    # Aggregating

    def step(self) -> bool:
        """Bring partitions up to date; return whether any has more to read.

        Those whose statistics nobody watches take turns together, between which they rest.
        """
        now = time.monotonic()
        ready = [partition for partition in self.partitions.values() if partition.retry_at <= now]
        busy = self._bring_up_all([partition for partition in ready if partition.is_urgent])
        if self._pace.until <= now:
            begun = time.monotonic()
            quiet = [partition for partition in ready if not partition.is_urgent]
            busy |= self._bring_up_all(quiet)
            self._pace.rest(time.monotonic() - begun, wanted=any(partition.demand.wanted for partition in quiet))
        return busy

    def _bring_up_all(self, partitions: Sequence[Partition]) -> bool:
        busy = False
        for partition in partitions:
            try:
                busy |= self._bring_up(partition)
            except Fenced:
                log.warning("partition %d: another aggregator owns it", partition.number)
                self.leases.forget(partition.number)
            except Unavailable as error:
                if not partition.away:
                    log.warning("partition %d: %s", partition.number, error)
                partition.away = True
                # The other partitions go on: they may be at another primary.
                partition.retry_at = time.monotonic() + self._policy.retry_pause
            except Exception as error:  # noqa: BLE001 - one partition must not end the others
                self._on_engine_failure(partition, error)
            if partition.ended:
                partition.end()  # engines may have been added after it was given away
        return busy

    def _on_engine_failure(self, partition: Partition, error: Exception) -> None:
        """Restart a partition: from its checkpoints if a shard was lost, else from the log alone."""
        lost = isinstance(error, ShardLost)
        if lost:
            if partition.ended:
                return  # its shards were ended when it was given away
            metrics.SHARDS_LOST.inc()
            log.warning("partition %d: restored from its checkpoints: %s", partition.number, error)
        else:
            if isinstance(error, EntryFailed):
                partition.poison.learn(error)
            log.error("partition %d: rebuilt from its logs", partition.number, exc_info=error)
        self._restart(partition, rebuild_from_log=not lost, pause=self._policy.retry_pause)

    def _bring_up(self, partition: Partition) -> bool:
        if not partition.loaded:
            self._takeover.load(partition)
            self.lifetimes.note(partition, partition.unread)
        if partition.alerts is None:
            self.alerts.load(partition)
            self.alert_sender.due.set()  # a predecessor may have left events
        if partition.unsure:
            if partition.skew_unsure:
                self._note_time(partition, self._broker.time(partition.number))
            self._find_changed(partition)
            self._review_demand(partition)
            partition.rest(self._policy.rebuilt_entries)
        asked, names = partition.take_asked(), []
        try:
            names = self._take_unread(partition)
            due = partition.is_due or partition.recounts or partition.corrected
            busy = False
            if names or asked or due or self.alerts.is_due(partition):
                busy = self._read_and_write(partition, names, {topic_of(name) for name in asked})
                busy |= self._recount(partition)
                partition.wake = partition.wake_at
                partition.hurried |= busy
            if partition.lifetime is not None:
                busy |= self.lifetimes.bring_up(partition, asked)
        except PushError:
            partition.unread.update(names)  # their entries may not have been read
            partition.demand.asked |= asked
            raise
        return busy

    @staticmethod
    def _note_time(partition: Partition, now: int) -> None:
        """Note the time (ms) of a partition's primary."""
        partition.skew, partition.skew_unsure = now - now_ms(), False

    def _find_changed(self, partition: Partition) -> None:
        """Mark topics whose last change was not read as unread: its notification may be lost."""
        changed = self._broker.changed(partition.number, partition.sure_through)
        if changed.epoch != partition.epoch:
            partition.look_everywhere()
        for name, sequence in changed.sequences.items():
            topic = partition.topics.get(name)
            known = is_statistics(name) or name in partition.dormant
            if not known and (topic is None or topic.sequence < sequence):
                partition.unread.add(name)
        if partition.lifetime is not None:
            self.lifetimes.note_changed(partition.lifetime, changed.sequences)
        partition.sure_through, partition.unsure = changed.through, changed.more

    def _review_demand(self, partition: Partition) -> None:
        """Suspend the windows that nobody asked for within the last minute."""
        now = partition.now
        over = partition.demand.over(now)
        if not over:
            return
        left = self._broker.demand.end(partition.number, partition.fence, over)
        for name in partition.demand.renew(left, now):
            for one in (partition, partition.lifetime):
                if one is not None and (topic := one.topics.get(name)) is not None:
                    self.frames.suspend(one, topic)

    def _take_unread(self, partition: Partition) -> list[str]:
        """Return the topics that may have new entries; open new ones."""
        unread, partition.unread, partition.hurried = partition.unread, set(), False
        topics = partition.topics
        self.lifetimes.note(partition, [name for name in unread if name not in topics])
        if partition.lifetime is not None:
            partition.lifetime.unread |= unread & partition.lifetime.topics.keys()
        # A notification meanwhile makes a topic unread again.
        try:
            self._takeover.begin(partition, [name for name in unread if name not in topics])
        except PushError:
            partition.unread |= unread
            raise
        return sorted(name for name in unread if name in topics)

    def _read_and_write(self, partition: Partition, names: list[str], asked: set[str]) -> bool:
        after = {Log(name): partition.topics[name].counts.offset for name in names}
        read = self._broker.read(partition.number, after, current=True)
        partition.away = False
        self._note_time(partition, read.now)
        if read.epoch != partition.epoch:
            # Redis was restarted, and may have lost entries that the engines have counted.
            self._restart(partition, rebuild_from_log=False)
            return True
        lagging = self._applier.apply_read(partition, names, read)
        partition.unread |= lagging
        partition.poison.isolating &= bool(lagging)
        # A topic that lags is written too: each frame is exact for its offset, and its readers see the lag.
        self.frames.write(partition, asked.union(names), read.now)
        self._evaluate_alerts(partition, names, lagging, read.now)
        return bool(lagging)

    def _recount(self, partition: Partition) -> bool:
        """Count corrected topics again, by one read of their logs; return whether there is more to read.

        Meanwhile their engines go on. So a topic with many corrections is counted again once a second at most.
        """
        now = time.monotonic()
        if partition.corrected and now - partition.recounted_at >= self._policy.recount_interval:
            partition.recounted_at = now
            for name in partition.corrected - partition.recounts.keys():
                self._begin_recount(partition, name)
        if not partition.recounts or partition.ended:
            return False
        after = {Log(name): recount.topic.counts.offset for name, recount in partition.recounts.items()}
        read = self._broker.read(partition.number, after, current=True)
        if read.epoch != partition.epoch:
            self._restart(partition, rebuild_from_log=False)
            return True
        for name, recount in list(partition.recounts.items()):
            found, live = read.logs[Log(name)], partition.topics[name].counts
            if not found.created or found.deleted != live.deleted:
                partition.unread.add(name)  # the topic is forgotten, with its recount
                continue
            entries = [entry for entry in found.entries if entry.last <= live.offset]
            with recount.engine.working():
                self._applier.apply_again(partition, recount.topic, entries)
                if recount.topic.counts.offset < live.offset:
                    continue
                recount.engine.engine.advance(read.now)
            recount.topic.counts.reported_late = recount.topic.counts.late - (live.late - live.reported_late)
            partition.replace(recount)
            self.frames.write(partition, [name], read.now)
        return bool(partition.recounts)

    def _begin_recount(self, partition: Partition, name: str) -> None:
        """Begin to count a topic again. Without room for a second time its rows, it is counted anew in its place."""
        if any(cells.held > cells.limit / 2 for cells in (self.room.cells, self.room.cells_of(partition.number))):
            partition.forget(name)
            partition.unread.add(name)
        elif (recount := self._takeover.recount(partition, name)) is not None:
            partition.recounts[name] = recount

    def _evaluate_alerts(self, partition: Partition, names: list[str], lagging: set[str], now: int) -> None:
        held = partition.alerts
        if held is None or held.wake_at is None:
            return
        try:
            self.alerts.evaluate(partition, names, lagging, now)
        except (PushError, ShardLost, EntryFailed):
            raise
        except Exception:  # a fault of an alert must not end the statistics
            log.exception("partition %d: its alerts are tried again later", partition.number)
            self.alerts.load(partition)
            self.alerts.pause(partition)
        if held.outbox:
            self.alert_sender.due.set()


class QuietPace:
    """Lets work rest so that it takes at most a ``share`` of the time. A rest takes at most ``most`` seconds; it takes
    all of them if the result is not wanted."""

    def __init__(self, share: float, most: float) -> None:
        self._factor = 1 / share - 1
        self._most = most
        self.until = 0.0  # monotonic time

    def rest(self, took: float, *, wanted: bool) -> None:
        """Begin a rest after ``took`` seconds of work."""
        self.until = time.monotonic() + (min(self._most, took * self._factor) if wanted else self._most)
