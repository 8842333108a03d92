"""The hub of a process: composes feed, groups and delivery, and owns their life."""

import logging
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from time import monotonic

import gevent
from gevent import monkey

from pushsvc.broker.broker import Broker
from pushsvc.errors import StartupError, TooManyFilters
from pushsvc.event import Limits
from pushsvc.hub import metrics
from pushsvc.hub.delivery.channel import Channel, WatchedChannels
from pushsvc.hub.delivery.combined import CombinedChannel
from pushsvc.hub.delivery.connection import Connection
from pushsvc.hub.delivery.sessions import Sessions
from pushsvc.hub.delivery.slow import Memory
from pushsvc.hub.delivery.wheel import Clock, Wheel
from pushsvc.hub.delivery.writer import FanoutWriter
from pushsvc.hub.feed.feed import Feed
from pushsvc.hub.groups.group import Group
from pushsvc.hub.groups.latest import LatestGroup
from pushsvc.hub.groups.latest_topic import LatestTopic
from pushsvc.hub.groups.listing import REFRESH, Describe, Listing, Poll
from pushsvc.hub.groups.rankings import Rankings
from pushsvc.hub.limits import FanoutLimits, FeedLimits, ResumeLimits
from pushsvc.hub.messages import farewell
from pushsvc.hub.query import LatestQuery, Query
from pushsvc.hub.resume.replay import Replays
from pushsvc.settings import TopicRules
from pushsvc.slices import Slices
from pushsvc.system_clock import now_ms

log = logging.getLogger(__name__)

Source = Group | Listing | LatestGroup
HEARTBEAT = 15.0
DRAINING = "the server is restarting"
EXPIRED = "the token has expired"
LINGER = 10  # seconds for which a group without streams is kept: a reconnecting client finds everything in memory
_DEAD = 10.0  # seconds without a tick after which the process counts as dead
_ENDED_PER_SECOND = 1_000


class Hub:
    """Groups of streams over the logs that they follow. Starts with its first use, so it may be created before a fork.

    ``heartbeat`` is the longest silence of a stream in seconds. At most ``followed`` logs are followed.
    """

    def __init__(
        self,
        broker: Broker,
        rules: TopicRules | None = None,
        heartbeat: float = HEARTBEAT,
        *,
        followed: int = Limits().followed,
        io_uring: bool = True,
        fanout_limits: FanoutLimits | None = None,
        feed_limits: FeedLimits | None = None,
        resume_limits: ResumeLimits | None = None,
        refresh: float = REFRESH,
    ) -> None:
        self.draining = False
        self.streams = 0
        self.clock = Clock()
        self.writer = FanoutWriter(fanout_limits, io_uring=io_uring)
        self.feed = Feed(broker, self.writer.room, followed, feed_limits)
        self.rankings = Rankings(self.writer.room, self.writer.limits.slice)
        self.replays = Replays(broker, self.feed.directory.refresh, resume_limits)
        # Bound once: each method that an object keeps would else take 64 bytes of every group.
        self._resume, self._end_group, self._note_left = self.replays.begin, self.end, self._on_left
        self._end_failed: Callable[[Source], None] = partial(self.end, reason="internal server error")
        self._rules = rules or TopicRules()
        self._refresh = refresh
        self._sources: dict[Hashable, Source] = {}
        self._latest: dict[str, LatestTopic] = {}
        self._latest_store = broker.latest
        self.watched = WatchedChannels()
        self.sessions: Sessions | None = None  # without: no stream ends with its grants
        self._wheel: Wheel[Connection] = Wheel(self.clock, max(1, round(heartbeat)))
        self._ticker: gevent.Greenlet[..., None] | None = None
        self._ticked = 0.0

    # Life

    def count_in(self, memory: Memory) -> None:
        """Count what is kept for slow streams in a budget; without room the largest ones are ended."""
        self.watched.slow.memory = memory

    def start(self) -> None:
        if self._ticker is None:
            if not monkey.is_module_patched("socket"):
                raise StartupError(
                    "streams need gevent: run pushsvc's own server, or gunicorn with -k gevent, or call "
                    "gevent.monkey.patch_all() first thing"
                )
            self._ticked = monotonic()
            self._ticker = gevent.spawn(self._run_ticker)
            self.feed.live.start()

    def drain(self, seconds: float = 0.0) -> None:
        """End every stream within some seconds, spread over them, after the messages that were read. New streams end
        at once. Returns when all are ended."""
        self.draining = True
        until = monotonic() + seconds
        channels = [source.channel for source in self._sources.values()]
        connections = [(channel, connection) for channel in channels for connection in channel.roster.members]
        spread = min(seconds / 2, len(connections) / _ENDED_PER_SECOND)
        for number, (channel, connection) in enumerate(connections):
            channel.finish(connection, farewell(DRAINING))
            if number % 64 == 63:
                gevent.sleep(64 * spread / len(connections))
        while self.streams and monotonic() < until:
            gevent.sleep(0.01)

    def close(self) -> None:
        if self._ticker is not None:
            self._ticker.kill()
        self.feed.close()
        for source in list(self._sources.values()):
            for connection in list(source.channel.roster.members):
                connection.end(farewell(DRAINING))
                connection.close()
            source.close()
        self.writer.close()

    def wait_up(self, timeout: float) -> bool:
        """Wait until the live connection receives notifications; return whether it does."""
        self.start()
        return bool(self.feed.live.up.wait(timeout))

    @property
    def healthy(self) -> bool:
        """False when something ended or hangs that never should: only a restart of the process helps."""
        if self._ticker is None:
            return True
        alive = not self._ticker.dead and monotonic() - self._ticked < _DEAD and not self.writer.stuck
        return alive and self.feed.healthy

    # Sources of streams

    def group(self, query: Query) -> Group:
        """Return the group of a query, a new one if there is none."""
        found = self._sources.get(query)
        if not isinstance(found, Group):
            if query.filters_patterns:
                self._check_filters()
            connect = partial(self._open_channel, visible_heartbeat=query.visible_heartbeat)
            found = Group(query, self._rules, self.feed, self._resume, self._end_group, connect, self.rankings)
            self._sources[query] = found
            found.open()
        found.channel.touch()
        return found

    def _check_filters(self) -> None:
        """Refuse one more filter of a pattern: events are not routed to it, each is compared in the turn it comes."""
        queries = (source.query for source in self._sources.values() if isinstance(source, Group))
        if sum(query.filters_patterns for query in queries) >= self.feed.limits.pattern_filters:
            raise TooManyFilters(f"{self.feed.limits.pattern_filters} filters of patterns are in use: name the topics")

    def listing(self, key: Hashable, poll: Poll, describe: Describe | None = None) -> Listing:
        """Return the listing of that name, a new one if there is none."""
        found = self._sources.get(key)
        if not isinstance(found, Listing):
            found = self._sources[key] = Listing(key, poll, self._open_channel, self._refresh, describe)
        found.channel.touch()
        return found

    def latest(self, query: LatestQuery) -> LatestGroup:
        """Return the group of the newest events of a topic, a new one if there is none."""
        found = self._sources.get(query)
        if not isinstance(found, LatestGroup):
            topic = self._latest.get(query.topic) or self._open_latest(query.topic)
            connect = partial(self._open_channel, visible_heartbeat=query.visible_heartbeat)
            found = self._sources[query] = LatestGroup(query, topic, self.end, connect, self.rankings)
            topic.add(found)
        found.channel.touch()
        return found

    def combined(self, name: str, *, visible_heartbeat: bool) -> CombinedChannel:
        """Return a new channel for one stream of several subscriptions."""
        return CombinedChannel(
            self.writer,
            self.clock,
            self._note_left,
            name=name,
            visible_heartbeat=visible_heartbeat,
            watched=self.watched,
        )

    def _open_latest(self, name: str) -> LatestTopic:
        topic = LatestTopic(
            name, self._rules.settings_of(name), self.feed, self._latest_store, self.watched.slow.memory,
            self._close_latest,
        )  # fmt: skip
        topic.open()
        self._latest[name] = topic
        return topic

    def _close_latest(self, topic: LatestTopic) -> None:
        if self._latest.get(topic.log.topic) is topic:
            del self._latest[topic.log.topic]

    def _open_channel(self, source: Source, *, visible_heartbeat: bool = False) -> Channel:
        return Channel(
            self.writer,
            self.clock,
            source,
            self._note_left,
            self._end_failed,
            name=source.key,
            visible_heartbeat=visible_heartbeat,
            watched=self.watched,
        )

    def end(self, source: Source, reason: str) -> None:
        """End all streams of a source and forget it."""
        self._close(source)
        for connection in list(source.channel.roster.members):
            connection.end(farewell(reason))

    def end_streams(self, connections: Iterable[Connection], reason: str) -> None:
        """End streams, in slices between which the event loop gets a turn."""
        pause = Slices(self.writer.limits.slice)
        for connection in connections:
            pause()
            connection.end(farewell(reason))

    def _close(self, source: Source) -> None:
        if self._sources.get(source.key) is source:
            del self._sources[source.key]
        source.close()

    # Connections

    def enter(self, channel: Channel, connection: Connection) -> None:
        """Let a connection join a channel, count it, and send it heartbeats from now on."""
        self.streams += 1
        metrics.STREAMS.inc()
        channel.join(connection)
        self._wheel.add(connection)

    def _on_left(self) -> None:
        self.streams -= 1
        metrics.STREAMS.dec()

    # Every second

    def _run_ticker(self) -> None:
        while True:
            gevent.sleep(1.0)
            try:
                self.tick()
            except Exception:
                metrics.ERRORS.inc()
                log.exception("the periodic work of the hub failed")

    def tick(self) -> None:
        self._ticked = monotonic()
        self._send_heartbeats(self._wheel.turn())
        if self.sessions is not None:
            self.end_streams(self.sessions.expired(now_ms() / 1_000), EXPIRED)
        self._end_stuck()
        self._close_idle()
        self.feed.topics.forget_unused()
        metrics.FOLLOWED.set(self.feed.followed)
        metrics.FOLLOWED_BYTES.set(self.feed.followed_bytes)

    def _end_stuck(self) -> None:
        """End streams whose peer takes nothing, and note how much is kept for slow ones."""
        held = behind = 0
        deadline = self.clock.tick - self.writer.limits.write_deadline
        pause = Slices(self.writer.limits.slice)
        for channel in self.watched.slow:
            pause()
            for connection in list(channel.slow):
                if connection.rest is not None and connection.taken_at < deadline:
                    metrics.SLOW_CLOSES.inc()
                    connection.close()
            if channel.slow:
                held += channel.recount()
                behind += len(channel.slow)
        metrics.BACKLOG.set(held)
        metrics.BEHIND.set(behind)

    def _close_idle(self) -> None:
        """Close the sources that had no stream for a while."""
        empty = self.watched.empty
        pause = Slices(self.writer.limits.slice)
        while empty and self.clock.tick - (channel := next(iter(empty))).idle_since > LINGER:
            del empty[channel]
            source = self._sources.get(channel.name)
            if source is not None and source.channel is channel:
                self._close(source)
                channel.forget()
            pause()

    def _send_heartbeats(self, due: list[Connection]) -> None:
        """Send heartbeats to silent connections, in slices between which the event loop gets a turn."""
        pause = Slices(self.writer.limits.slice)
        for connection in due:
            pause()
            if connection.closed:
                continue
            try:
                if connection.rest is None and (message := connection.channel.heartbeat(connection)):
                    connection.push_framed(message)
            except Exception:
                log.exception("a stream of %s failed", connection.channel.name)
                connection.fail()
            else:
                if not connection.closed:
                    self._wheel.add(connection)
