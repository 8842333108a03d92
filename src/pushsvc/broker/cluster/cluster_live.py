"""The live connections of a process to a cluster: one to each primary, for the channels of its slots."""

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from time import monotonic

import gevent
from gevent.event import Event

from pushsvc.broker.cluster.cluster import Cluster
from pushsvc.broker.confirmations import Confirmation, Confirmations
from pushsvc.broker.connection_pool import ConnectionPool
from pushsvc.broker.keys import TAGS, slot_of
from pushsvc.broker.live import LiveConnection, OnMessage, OnUnhandled
from pushsvc.broker.reply_reader import no_reading_pause
from pushsvc.errors import PushError

log = logging.getLogger(__name__)

CHECK_INTERVAL = 10.0  # seconds between two checks of the cluster's slots while all channels are confirmed
UNSETTLED_CHECK_INTERVAL = 0.25  # the same while some are not
_CONFIRM_TIMEOUT = 2.0

OnUp = Callable[[Sequence[int]], None]


class ClusterLiveConnection:
    """Keeps channels subscribed at the primary of their slot; the LiveConnection of a cluster.

    ``on_up`` gets the partitions whose earlier messages may be lost. One primary gets a pattern: PUBLISH reaches all.
    """

    def __init__(
        self, cluster: Cluster, on_message: OnMessage, on_up: OnUp, *, on_unhandled: OnUnhandled = lambda *_: None,
        reading_pause: Callable[[], float] = no_reading_pause,
    ) -> None:  # fmt: skip
        self._cluster = cluster
        self._reading_pause = reading_pause
        self._on_message = on_message
        self._on_unhandled = on_unhandled
        self._on_up = on_up
        self._channels: dict[str, None] = {}
        self._confirmations = Confirmations()
        self._patterns: set[str] = set()
        self._connections: dict[ConnectionPool, LiveConnection] = {}
        self._places: dict[str, LiveConnection] = {}
        self._missed: set[int] = set()  # partitions for which on_up is due
        self._check_now = Event()
        self._failing = False
        self._greenlet: gevent.Greenlet[..., None] | None = None
        self.up = Event()
        cluster.on_change.append(self._check_now.set)

    def start(self) -> None:
        self._greenlet = gevent.spawn(self._run)

    def close(self) -> None:
        if self._greenlet is not None:
            self._greenlet.kill()
        for connection in self._connections.values():
            connection.close()

    @property
    def dead(self) -> bool:
        """True if a greenlet has ended, which is a bug."""
        return (self._greenlet is not None and self._greenlet.dead) or any(
            connection.dead for connection in self._connections.values()
        )

    def receives(self, partitions: Iterable[int]) -> bool:
        """Return whether messages of these partitions arrive now."""
        found = [self._connection_of(slot_of(TAGS[partition])) for partition in partitions]
        return all(connection is not None and connection.up.is_set() for connection in found)

    def subscribe(self, channel: str) -> Confirmation:
        """Subscribe; return the confirmation to come of the channel's primary."""
        if channel not in self._channels:
            self._channels[channel] = None
            self._place(channel)
        return Confirmation(self._confirmations, channel)

    def is_confirmed(self, channel: str) -> bool:
        """Return whether every message on the channel arrives from now on."""
        return channel in self._confirmations

    def wait_arrived(self, channel: str, timeout: float) -> bool:
        """Wait until every message on a channel that Redis has sent up to now has arrived; return whether it has."""
        connection = self._places.get(channel)
        return connection is not None and connection.wait_arrived(channel, timeout)

    def unsubscribe(self, channel: str) -> None:
        if channel not in self._channels:
            return
        del self._channels[channel]
        self._confirmations.discard(channel)
        if (connection := self._places.pop(channel, None)) is not None:
            connection.unsubscribe(channel)

    def subscribe_pattern(self, pattern: str) -> None:
        self._patterns.add(pattern)
        self._check_now.set()

    def _connection_of(self, slot: int) -> LiveConnection | None:
        pool = self._cluster.known(slot)
        return None if pool is None else self._connections.get(pool)

    def _place(self, channel: str) -> LiveConnection | None:
        """Subscribe a channel at the primary of its slot, if known; return the new connection if the channel moved."""
        connection, before = self._connection_of(slot_of(channel)), self._places.get(channel)
        if connection is None:
            self._check_now.set()
            return None
        if connection is before:
            return None
        if before is not None:
            before.unsubscribe(channel)
        self._places[channel] = connection
        connection.subscribe(channel)
        return connection

    # Following the cluster

    def _run(self) -> None:
        while True:
            try:
                self._check()
                self._failing = False
            except PushError as error:
                if not self._failing:  # logged once: the cluster may be away for long, and checks come four a second
                    log.warning("live connections to the cluster failed: %s", error)
                self._failing = True
            except Exception:
                log.exception(
                    "live connections to the cluster failed"
                )  # ending here would cut the process off for ever
            if any(connection.up.is_set() for connection in self._connections.values()):
                self.up.set()
            else:
                self.up.clear()
            # The check itself reports moved slots. Other doubts remain unsettled, and the next check comes soon.
            self._check_now.clear()
            self._check_now.wait(CHECK_INTERVAL if self._settled else UNSETTLED_CHECK_INTERVAL)

    @property
    def _settled(self) -> bool:
        connections = self._connections.values()
        up = bool(connections) and all(connection.up.is_set() for connection in connections)
        return up and not self._missed and all(map(self.is_confirmed, self._channels))

    def _check(self) -> None:
        self._cluster.refresh()
        primaries = self._cluster.primaries()
        for pool in primaries:
            if pool not in self._connections:
                self._connections[pool] = connection = LiveConnection(
                    pool, self._on_message, partial(self._on_connection_up, pool),
                    on_unhandled=self._on_unhandled, sharded=True, on_slots_changed=self._check_now.set,
                    confirmations=self._confirmations, reading_pause=self._reading_pause,
                )  # fmt: skip
                connection.start()
        self._move_channels()
        for pool in self._connections.keys() - set(primaries):
            self._connections.pop(pool).close()

    def _on_connection_up(self, pool: ConnectionPool) -> None:
        self._on_up(self._cluster.partitions_of(pool))
        self.up.set()

    def _move_channels(self) -> None:
        """Move every channel to the primary that has its slot now."""
        moved = []
        for channel in list(self._channels):
            connection = self._place(channel)
            if connection is not None and connection.up.is_set():
                moved.append(channel)
            elif connection is None and not self.is_confirmed(channel) and channel in self._places:
                self._places[channel].subscribe_again(channel)
        self._move_patterns()
        if moved:
            # Messages between the two subscriptions are lost. (A connection that comes up calls on_up by itself.)
            deadline = monotonic() + _CONFIRM_TIMEOUT
            for channel in moved:
                self._confirmations.wait(channel, max(0.0, deadline - monotonic()))
            slots = {slot_of(channel) for channel in moved}
            self._missed.update(number for number, tag in enumerate(TAGS) if slot_of(tag) in slots)
        if self._missed:
            self._on_up(sorted(self._missed))
            self._missed.clear()

    def _move_patterns(self) -> None:
        for pattern in self._patterns:
            connection, before = self._connection_of(slot_of(pattern)), self._places.get(pattern)
            if connection is not None and connection is not before:
                if before is not None:
                    before.unsubscribe_pattern(pattern)
                self._places[pattern] = connection
                connection.subscribe_pattern(pattern)
