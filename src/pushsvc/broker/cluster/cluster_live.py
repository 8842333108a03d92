"""The live connections of a process to a cluster: one to each primary, for the channels of its slots."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import gevent
from gevent.event import Event

from pushsvc.broker.cluster.cluster import Cluster
from pushsvc.broker.connection import Connections
from pushsvc.broker.keys import TAGS, slot_of
from pushsvc.broker.live import LiveConnection, OnMessage
from pushsvc.errors import PushError

log = logging.getLogger(__name__)

LOOK, LOOK_IN_DOUBT = 10.0, 0.25
"""Seconds after which the cluster is asked who has what: when all is well, and while something is not heard."""

_CONFIRM = 2.0


class ClusterLiveConnection:
    """Keeps channels subscribed at the primary that has their slot; what a LiveConnection does, for a cluster.

    ``on_up`` is told of which partitions everything said before is lost. A pattern is subscribed at one primary: a
    plain PUBLISH, which is what patterns are for, reaches all of them.
    """

    def __init__(
        self,
        cluster: Cluster,
        on_message: OnMessage,
        on_up: Callable[[Sequence[int]], None],
        *,
        on_unhandled: Callable[[str, bytes], None] = lambda *_: None,
    ) -> None:
        self._cluster = cluster
        self._on_message = on_message
        self._on_unhandled = on_unhandled
        self._on_up = on_up
        self._channels: dict[str, Event] = {}
        self._patterns: set[str] = set()
        self._lives: dict[Connections, LiveConnection] = {}
        self._places: dict[str, LiveConnection] = {}
        self._unheard: set[int] = set()
        self._doubted = Event()
        self._failing = False
        self._greenlet: gevent.Greenlet[..., None] | None = None
        self.up = Event()
        cluster.on_change.append(self._doubted.set)

    def start(self) -> None:
        self._greenlet = gevent.spawn(self._keep)

    def close(self) -> None:
        if self._greenlet is not None:
            self._greenlet.kill()
        for live in self._lives.values():
            live.close()

    @property
    def dead(self) -> bool:
        """True when a greenlet ended that never should."""
        return (self._greenlet is not None and self._greenlet.dead) or any(live.dead for live in self._lives.values())

    def wait_up(self, timeout: float) -> bool:
        """Wait until some primary is heard; return whether one is."""
        return bool(self.up.wait(timeout))

    def receives(self, partitions: Iterable[int]) -> bool:
        """Tell whether what is said of partitions is heard now."""
        lives = [self._live_of(slot_of(TAGS[partition])) for partition in partitions]
        return all(live is not None and live.up.is_set() for live in lives)

    def subscribe(self, channel: str) -> Event:
        """Subscribe, and return what is set while the channel's primary has confirmed it."""
        if channel not in self._channels:
            self._channels[channel] = Event()
            self._place(channel)
        return self._channels[channel]

    def is_confirmed(self, channel: str) -> bool:
        """Tell whether all that is said on a channel from now on is heard."""
        confirmed = self._channels.get(channel)
        return confirmed is not None and confirmed.is_set()

    def unsubscribe(self, channel: str) -> None:
        if self._channels.pop(channel, None) is not None and (live := self._places.pop(channel, None)) is not None:
            live.unsubscribe(channel)

    def subscribe_pattern(self, pattern: str) -> None:
        self._patterns.add(pattern)
        self._doubted.set()

    def _live_of(self, slot: int) -> LiveConnection | None:
        connections = self._cluster.known(slot)
        return None if connections is None else self._lives.get(connections)

    def _place(self, channel: str) -> LiveConnection | None:
        """Subscribe a channel where its slot is, if that is known; return what took it over from another."""
        live, before = self._live_of(slot_of(channel)), self._places.get(channel)
        if live is None:
            self._doubted.set()
            return None
        if live is before:
            return None
        confirmed = self._channels[channel]
        if before is not None:
            before.unsubscribe(channel)
            confirmed.clear()
        self._places[channel] = live
        live.subscribe(channel, confirmed)
        return live

    # Following the cluster

    def _keep(self) -> None:
        while True:
            try:
                self._look()
                self._failing = False
            except PushError as error:
                if not self._failing:  # once, as the cluster may be away for long and is looked at four times a second
                    log.warning("live connections to the cluster: %s", error)
                self._failing = True
            except Exception:
                log.exception("live connections to the cluster")  # a process that is deaf for ever is worse
            if any(live.up.is_set() for live in self._lives.values()):
                self.up.set()
            else:
                self.up.clear()
            self._doubted.clear()  # the look itself says that slots moved; what else was doubted is not settled
            self._doubted.wait(LOOK if self._settled else LOOK_IN_DOUBT)

    @property
    def _settled(self) -> bool:
        heard = bool(self._lives) and all(live.up.is_set() for live in self._lives.values())
        return heard and not self._unheard and all(confirmed.is_set() for confirmed in self._channels.values())

    def _look(self) -> None:
        self._cluster.refresh()
        primaries = self._cluster.primaries()
        for connections in primaries:
            if connections not in self._lives:
                self._lives[connections] = live = LiveConnection(
                    connections, self._on_message, partial(self._heard, connections),
                    on_unhandled=self._on_unhandled, sharded=True, on_doubt=self._doubted.set,
                )  # fmt: skip
                live.start()
        self._move()
        for connections in self._lives.keys() - set(primaries):
            self._lives.pop(connections).close()

    def _heard(self, connections: Connections) -> None:
        self._on_up(self._cluster.partitions_of(connections))
        self.up.set()

    def _move(self) -> None:
        """Bring every channel to the primary that has its slot now."""
        moved = []
        for channel, confirmed in list(self._channels.items()):
            taken_over_by = self._place(channel)
            if taken_over_by is not None and taken_over_by.up.is_set():
                moved.append((channel, confirmed))
            elif taken_over_by is None and not confirmed.is_set() and channel in self._places:
                self._places[channel].ask_again(channel)
        self._move_patterns()
        if moved:
            # What was said between the two subscriptions was not heard. (One that comes up says so itself.)
            gevent.wait([confirmed for _, confirmed in moved], timeout=_CONFIRM)
            slots = {slot_of(channel) for channel, _ in moved}
            self._unheard.update(number for number, tag in enumerate(TAGS) if slot_of(tag) in slots)
        if self._unheard:
            self._on_up(sorted(self._unheard))
            self._unheard.clear()

    def _move_patterns(self) -> None:
        for pattern in self._patterns:
            live, before = self._live_of(slot_of(pattern)), self._places.get(pattern)
            if live is not None and live is not before:
                if before is not None:
                    before.unsubscribe_pattern(pattern)
                self._places[pattern] = live
                live.subscribe_pattern(pattern)
