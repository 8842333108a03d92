"""The hub of a process: one live connection, a follower per partition that somebody watches, groups of streams."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable, Sequence
from random import randrange
from time import monotonic

import gevent
from gevent import monkey
from gevent.event import Event

from pushsvc import sse
from pushsvc.broker.broker import Broker
from pushsvc.broker.keys import TAGS, Log
from pushsvc.broker.log import FROM_SNAPSHOT
from pushsvc.errors import BrokerUnavailable, InvalidInput, StartupError, TooManyLogsFollowed
from pushsvc.event import Limits
from pushsvc.hub import metrics
from pushsvc.hub.delivery.channel import Channel
from pushsvc.hub.delivery.connection import WRITE_DEADLINE, Connection
from pushsvc.hub.delivery.wheel import Wheel
from pushsvc.hub.delivery.writer import SLICE, Flush
from pushsvc.hub.feed.directory import Directory
from pushsvc.hub.feed.follower import Follower
from pushsvc.hub.groups.group import Group
from pushsvc.hub.groups.listing import Listing, Look
from pushsvc.hub.query import Query
from pushsvc.hub.resume.replay import Replays
from pushsvc.hub.window_state import Mirror
from pushsvc.settings import TopicRules

log = logging.getLogger(__name__)

JOIN_SECONDS = 5.0
HEARTBEAT = 15.0
RETRY = 2_000
DRAINING = "the server is restarting"

LINGER = 10
"""Seconds for which a group without streams goes on: who reconnects finds everything at hand."""

_DEAD = 10.0
"""Seconds without a tick after which the process is taken for dead."""

_ENDED_PER_SECOND = 1_000


class Hub:
    """Groups of streams over the logs they watch. Starts with its first use, so that it may be made before a fork.

    ``heartbeat`` is the silence, in seconds, that a stream may have. ``tick`` counts the seconds of the wheel. At most
    so many logs are ``followed``: each is a subscription in Redis, and state here.
    """

    def __init__(
        self,
        broker: Broker,
        rules: TopicRules | None = None,
        heartbeat: float = HEARTBEAT,
        *,
        followed: int = Limits().followed,
        io_uring: bool = True,
    ) -> None:
        self.broker = broker
        self.rules = rules or TopicRules()
        self.heartbeat = heartbeat
        self.followed = followed
        self.flush = Flush(io_uring=io_uring)
        self.replays = Replays()
        self.draining = False
        self.streams = 0
        self.tick = 0
        self._directory = Directory(self)
        self._channels: dict[Hashable, Channel] = {}
        self._followers: dict[int, Follower] = {}
        self._wheel: Wheel[Connection] = Wheel(max(1, round(heartbeat)))
        self._live = broker.live_connection(self._hear, self._on_up, on_unhandled=self._on_birth)
        self._heard = False
        self._clock: gevent.Greenlet[..., None] | None = None
        self._ticked = 0.0
        self._watched: dict[str, tuple[Log, int]] = {}  # by channel: the log and its partition
        self._by_tag = {tag: partition for partition, tag in enumerate(TAGS)}

    # Life

    def start(self) -> None:
        if self._clock is None:
            if not monkey.is_module_patched("socket"):
                raise StartupError(
                    "streams need gevent: run pushsvc's own server, or gunicorn with -k gevent, or call "
                    "gevent.monkey.patch_all() first thing"
                )
            self._ticked = monotonic()
            self._clock = gevent.spawn(self._turn)
            self._live.start()

    def drain(self, seconds: float = 0.0) -> None:
        """End every stream within some seconds, each with a jittered retry, and not all at once; new ones end at once.

        What was read is sent first. Returns when all are ended.
        """
        self.draining = True
        until = monotonic() + seconds
        connections = [member for channel in self._channels.values() for member in channel.members]
        spread = min(seconds / 2, len(connections) / _ENDED_PER_SECOND)
        for number, connection in enumerate(connections):
            self.finish(connection, DRAINING)
            if number % 64 == 63:
                gevent.sleep(64 * spread / len(connections))
        while self.streams and monotonic() < until:
            gevent.sleep(0.01)

    def close(self) -> None:
        self._live.close()
        if self._clock is not None:
            self._clock.kill()
        for follower in list(self._followers.values()):
            follower.greenlet.kill()
        for channel in list(self._channels.values()):
            for connection in list(channel.members):
                connection.close()
            channel.close()
        self.flush.close()

    def wait_up(self, timeout: float) -> bool:
        """Wait until the live connection hears; return whether it does."""
        self.start()
        return self._live.wait_up(timeout)

    @property
    def healthy(self) -> bool:
        """False when something ended or stands still that never should: only a restart of the process helps."""
        if self._clock is None:
            return True
        alive = not self._clock.dead and monotonic() - self._ticked < _DEAD and not self.flush.stuck
        return alive and not self._live.dead and not any(f.greenlet.dead for f in self._followers.values() if f.tails)

    # Streams

    def group(self, query: Query) -> Group:
        """Return the group of a query, a new one if there is none."""
        found = self._channels.get(query)
        if not isinstance(found, Group):
            found = self._channels[query] = Group(self, query)
            found.extend(query.named_topics)
            if query.has_patterns and not found.closed:
                self._directory.add(found)
        found.idle_since = self.tick
        return found

    def listing(self, key: str, look: Look) -> Listing:
        """Return the listing of that name, a new one if there is none."""
        found = self._channels.get(key)
        if not isinstance(found, Listing):
            found = self._channels[key] = Listing(self, key, look)
        found.idle_since = self.tick
        return found

    def wait_settled(self, group: Group) -> None:
        """Return once a group hears of everything and knows its state; raise BrokerUnavailable.

        The registry has changed before Redis is asked, so that of two who come at once neither misses anything.
        """
        if self.draining:
            raise BrokerUnavailable(DRAINING)
        listed = self._directory.knows(group)
        if group.settled.is_set() and listed and self._live.receives(group.followers):
            return
        if not self.wait_up(JOIN_SECONDS if not self._heard else 0.1):
            raise BrokerUnavailable("no connection to Redis")
        if group.query.has_patterns:
            self._directory.wait()
        for of in list(group.logs):
            self._check(group)  # or what nobody unsubscribes any more would be subscribed
            if not self.watch(of).wait(JOIN_SECONDS):
                raise BrokerUnavailable("Redis did not confirm a subscription in time")
        self._check(group)
        for follower in group.followers.values():
            follower.wake()
        if not group.logs:
            group.look()
        if not group.settled.wait(JOIN_SECONDS):
            raise BrokerUnavailable("Redis did not answer in time")

    @staticmethod
    def _check(group: Group) -> None:
        """Raise why a group has ended."""
        if group.crowded:
            raise InvalidInput(f"more than {group.query.topics} topics: name fewer, or a narrower pattern")
        if group.is_beyond_room:
            raise TooManyLogsFollowed("limits.followed allows no more logs; more web processes may follow more")
        if group.closed:
            raise BrokerUnavailable("the group of the stream ended before Redis had answered")

    def enter(self, connection: Connection) -> None:
        """Count a connection, and break its silence from now on."""
        self.streams += 1
        metrics.STREAMS.inc()
        connection.tick = self.tick
        connection.channel.join(connection)
        self._wheel.add(connection)

    def left(self) -> None:
        """A connection was closed."""
        self.streams -= 1
        metrics.STREAMS.dec()

    def finish(self, connection: Connection, reason: str) -> None:
        """End a stream so that its client comes back: after what it was to get, with a retry and a reason."""
        if connection.closed:
            return
        connection.channel.seal()
        at = connection.at
        while connection.rest is None and not connection.closed and at is not None and (at := at.next) is not None:
            connection.at = at
            connection.push(at.data)
        connection.end(farewell(reason))

    @staticmethod
    def end(connection: Connection, reason: str) -> None:
        """End a stream as it stands."""
        connection.end(farewell(reason))

    def end_channel(self, channel: Channel, reason: str) -> None:
        """End all streams of a channel, and forget it."""
        self._close(channel)
        for connection in list(channel.members):
            self.end(connection, reason)

    def _close(self, channel: Channel) -> None:
        if self._channels.get(channel.key) is channel:
            del self._channels[channel.key]
        if isinstance(channel, Group):
            self._directory.discard(channel)
        channel.close()

    # Logs

    def follower(self, partition: int) -> Follower:
        """Return the follower of a partition, a new one if there is none."""
        follower = self._followers.get(partition)
        if follower is None or follower.greenlet.dead:
            follower = Follower(self, self.broker, partition, lambda: self._ended(partition))
            self._followers[partition] = follower
        return follower

    def has_room(self, logs: Sequence[Log]) -> bool:
        """Tell whether logs may be followed beside those that are."""
        tails = {partition: follower.tails for partition, follower in self._followers.items()}
        new = sum(of not in tails.get(of.partition, ()) for of in logs)
        return not new or self._following + new <= self.followed

    @property
    def _following(self) -> int:
        return sum(len(follower.tails) for follower in self._followers.values())

    def _ended(self, partition: int) -> None:
        follower = self._followers.get(partition)
        if follower is not None and not follower.tails:
            del self._followers[partition]

    def list_again(self, partition: int) -> None:
        """Tell those who watch patterns of topics of a partition of which they have not heard yet."""
        self._directory.doubt([partition])

    def hear(self, channel: str) -> Event:
        """Subscribe to a channel; return what is set once Redis has confirmed it."""
        return self._live.subscribe(channel)

    def unhear(self, channel: str) -> None:
        self._live.unsubscribe(channel)

    def watch(self, of: Log) -> Event:
        """Subscribe to what is said of a log; return what is set once Redis has confirmed it."""
        channel = self.broker.keys.log_channel(of)
        self._watched[channel] = of, of.partition
        return self.hear(channel)

    def unwatch(self, of: Log) -> None:
        channel = self.broker.keys.log_channel(of)
        self._watched.pop(channel, None)
        self.unhear(channel)

    def hears_all(self, logs: Iterable[Log]) -> bool:
        """Tell whether all that is said of logs from now on is heard."""
        return all(self._live.is_confirmed(self.broker.keys.log_channel(of)) for of in logs)

    def mirror(self, of: Log) -> tuple[Mirror, int, int, bool]:
        """Return the state of a statistics log, with its epoch and sequence and whether an aggregator is alive."""
        mirror = Mirror(of)
        after = FROM_SNAPSHOT
        while True:
            read = self.broker.read(of.partition, {of: after})
            logged = read.logs[of]
            for entry in logged.entries:
                mirror.apply(entry)
                after = entry.last
            if not logged.more:
                return mirror, read.epoch, read.sequence, read.owned

    def _hear(self, channel: str, data: bytes) -> bool:
        """Hear what is said of a log; return False for any other channel."""
        watched = self._watched.get(channel)
        if watched is None:
            return False
        of, partition = watched
        follower = self._followers.get(partition)
        if follower is not None:
            follower.hear(of, data)
        return True

    def _on_birth(self, channel: str, data: bytes) -> None:
        tag = channel[channel.index("{") + 1 : channel.index("}")]
        partition = self._by_tag[tag]
        if channel == self.broker.keys.topics(partition):
            self._directory.hear(data.decode())

    def _on_up(self, partitions: Sequence[int]) -> None:
        """Redis is heard again. Whether it is still what it was, each partition's next read says."""
        self._heard = True
        self._directory.doubt(partitions)
        for partition in partitions:
            if (follower := self._followers.get(partition)) is not None:
                follower.wake()

    # The wheel

    def _turn(self) -> None:
        while True:
            gevent.sleep(1.0)
            try:
                self._tick()
            except Exception:
                metrics.ERRORS.inc()
                log.exception("the hub's wheel")

    def _tick(self) -> None:
        self._ticked = monotonic()
        self.tick = self._wheel.tick + 1
        self._beat(self._wheel.turn())
        held = behind = 0
        for channel in list(self._channels.values()):
            for connection in list(channel.slow):
                if connection.rest is not None and self.tick - connection.tick > WRITE_DEADLINE:
                    metrics.SLOW_CLOSES.inc()
                    connection.close()
            if channel.slow:
                held += channel.held
                behind += len(channel.slow)
            elif channel.idle and self.tick - channel.idle_since > LINGER:
                self._close(channel)
        metrics.FOLLOWED.set(self._following)
        metrics.BACKLOG.set(held)
        metrics.BEHIND.set(behind)

    def _beat(self, due: list[Connection]) -> None:
        """Break the silence of connections, with pauses for everything else."""
        loop = gevent.get_hub().loop
        begun = monotonic()
        for connection in due:
            if monotonic() - begun > SLICE:
                gevent.get_hub().wait(loop.timer(0))
                begun = monotonic()
            if connection.closed:
                continue
            try:
                if connection.rest is None and (message := connection.channel.heartbeat(connection)):
                    connection.push(message)
            except Exception:
                log.exception("a stream of %s", connection.channel.key)
                connection.fail()
            else:
                if not connection.closed:
                    self._wheel.add(connection)


def farewell(reason: str) -> bytes:
    """Return the end of a stream that time can mend: any status but 200 would close an EventSource for ever."""
    return sse.retry(jittered(RETRY)) + sse.comment(reason)


def jittered(milliseconds: int) -> int:
    """Spread reconnects over one to two times the delay, so that they do not come all at once."""
    return milliseconds + randrange(milliseconds)
