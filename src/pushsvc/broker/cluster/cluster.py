"""A cluster: which primary has which slot, and calls that find the primary of their key.

A call goes to another node only if it did not run at the first: that one answered MOVED, or could not be reached. ASK
is not followed, because a node that is importing a slot refuses scripts if one of their keys does not exist there: such
a call fails with BrokerUnavailable and may be repeated.
"""

import threading
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, TypeVar

from pushsvc.broker.append import Append
from pushsvc.broker.cluster.address import Address, ask_in_turn
from pushsvc.broker.committer import Committer
from pushsvc.broker.connection_pool import ConnectionPool, Connections
from pushsvc.broker.keys import SLOTS, TAGS, slot_of
from pushsvc.broker.limits import BrokerLimits
from pushsvc.broker.replies import Host, Moved
from pushsvc.broker.script import Argument, ScriptCall
from pushsvc.errors import BrokerUnavailable, OutcomeUnknown
from pushsvc.settings import Ack

T = TypeVar("T")

MAX_REDIRECTS = 3  # redirects that a call follows; a slot that is still elsewhere then is being moved
REFRESH_INTERVAL = 0.2  # least seconds between two requests to the cluster for its slots
CONNECT_BACKOFF = 5.0  # seconds without connects to a node after a timeout: calls to other nodes need not wait for it
_NAMELESS = (None, b"", b"?")


class Cluster(Connections):
    """Each call goes to the primary of its key. ``size`` bounds the connections to each primary."""

    publish_command = "SPUBLISH"
    numsub = "SHARDNUMSUB"

    def __init__(self, address: Address, *, size: int, timeout: float = 5.0) -> None:
        self._address = address
        self._size = size
        self._timeout = timeout
        self._nodes: dict[Host, ConnectionPool] = {}
        self._slots: list[ConnectionPool | None] = [None] * SLOTS
        self._known_hosts = list(address.hosts)
        self._turn = -1
        self._refreshing = threading.Lock()
        self._refreshed_at = float("-inf")
        self.on_change: list[Callable[[], None]] = []  # called after slots have moved

    # Which primary has which slot

    def node(self, slot: int) -> ConnectionPool:
        """Return the connections to the primary of a slot; raise BrokerUnavailable."""
        found = self._slots[slot]
        if found is None:
            self.refresh()
            found = self._slots[slot]
        if found is None:
            raise BrokerUnavailable(f"no primary of the cluster has slot {slot}")
        return found

    def known(self, slot: int) -> ConnectionPool | None:
        """Return the connections to the primary of a slot if it is known; asks no node."""
        return self._slots[slot]

    def primaries(self) -> list[ConnectionPool]:
        if not self._nodes:
            self.refresh()
        return list(self._nodes.values())

    def partitions_of(self, node: ConnectionPool) -> list[int]:
        """Return the partitions of a primary."""
        return [number for number, tag in enumerate(TAGS) if self._slots[slot_of(tag)] is node]

    def refresh(self) -> None:
        """Ask the cluster which primary has which slot, unless that was done within REFRESH_INTERVAL."""
        with self._refreshing:
            if monotonic() - self._refreshed_at < REFRESH_INTERVAL:
                return
            try:
                self._update(self._ask_nodes())
            finally:
                self._refreshed_at = monotonic()

    def _ask_nodes(self) -> list[tuple[int, int, list[Host]]]:
        # In turns: a node may be cut off from the others without knowing it, and its answer stays outdated.
        self._turn += 1
        start = self._turn % len(self._known_hosts)
        host, found = ask_in_turn(
            {host: self._address.server(host) for host in self._known_hosts[start:] + self._known_hosts[:start]},
            ("CLUSTER", "SLOTS"),
            failure="no node of the cluster answers",
            wrong_kind="is not a node of a cluster: use redis://…",
            no_answer="its cluster has no slots yet",
        )
        return [(first, last, _hosts_of(host, nodes)) for first, last, *nodes in found]

    def _update(self, ranges: Sequence[tuple[int, int, list[Host]]]) -> None:
        """Apply the cluster's slot ranges; close the connections to former primaries."""
        nodes = {hosts[0]: self._nodes.get(hosts[0]) or self._connect(hosts[0]) for _, _, hosts in ranges}
        slots: list[ConnectionPool | None] = [None] * SLOTS
        for first, last, hosts in ranges:
            slots[first : last + 1] = [nodes[hosts[0]]] * (last + 1 - first)
        changed = slots != self._slots
        former = [node for host, node in self._nodes.items() if host not in nodes]
        self._nodes, self._slots = nodes, slots
        hosts = [host for _, _, hosts in ranges for host in hosts]
        self._known_hosts = list(dict.fromkeys([*hosts, *self._address.hosts]))
        if changed:
            self._notify_change()
        for node in former:
            node.close(busy=False)

    def _connect(self, host: Host) -> ConnectionPool:
        return ConnectionPool(
            self._address.server(host), size=self._size, timeout=self._timeout, kind="cluster", backoff=CONNECT_BACKOFF
        )

    def _notify_change(self) -> None:
        for listener in self.on_change:
            listener()

    def _follow(self, moved: Moved, answered_by: ConnectionPool) -> ConnectionPool:
        """Return the node that MOVED names, and note it for the slot. Other slots are refreshed when a call fails."""
        name, port = moved.host
        if not name:  # that of the node that answered
            name = next((name for (name, _), node in self._nodes.items() if node is answered_by), "")
        host = (name, port)
        node = self._nodes.get(host) or self._connect(host)
        if self._slots[moved.slot] is not node:
            self._nodes = {**self._nodes, host: node}
            self._slots[moved.slot] = node
            self._notify_change()
        return node

    # Calls

    def routed(self, key: str, act: Callable[[ConnectionPool], T]) -> T:
        """Act on the primary of a key, and on another node if nothing was done at the first."""
        slot = slot_of(key)
        node = self.node(slot)
        for _ in range(MAX_REDIRECTS):
            try:
                return act(node)
            except BrokerUnavailable as error:
                successor = self._successor(slot, node, error)
                if successor is None:
                    raise
                node = successor
        return act(node)

    def _successor(self, slot: int, node: ConnectionPool, reply: Any) -> ConnectionPool | None:
        """Return where to repeat a call that did not run; None if it ran, or if no other node has the slot."""
        if isinstance(reply, Moved):
            return self._follow(reply, node)
        if not isinstance(reply, BrokerUnavailable):
            return None
        try:
            self.refresh()
            found = self.node(slot)
        except BrokerUnavailable:
            return None
        return None if found is node else found

    def exchange(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        return self.send_each(commands, lambda words: str(words[1]), ConnectionPool.exchange)

    def calls(self, calls: Sequence[ScriptCall]) -> list[Any]:
        return self.send_each(calls, lambda call: call.keys[0], ConnectionPool.calls)

    def send_each(
        self, items: Sequence[T], key_of: Callable[[T], str], send: Callable[[ConnectionPool, Sequence[T]], list[Any]]
    ) -> list[Any]:
        """Send each item to the primary of its key, grouped by node; repeat elsewhere the items that did not run."""
        replies: list[Any] = [None] * len(items)
        slots = [slot_of(key_of(item)) for item in items]
        waiting: dict[int, ConnectionPool | None] = dict.fromkeys(range(len(items)))
        for _ in range(MAX_REDIRECTS + 1):
            groups: dict[ConnectionPool, list[int]] = {}
            for index, redirected in waiting.items():
                try:
                    groups.setdefault(redirected or self.node(slots[index]), []).append(index)
                except BrokerUnavailable as error:
                    replies[index] = error
            waiting = {}
            for node, indexes in groups.items():
                found: Sequence[Any]
                try:
                    found = send(node, [items[i] for i in indexes])
                except (BrokerUnavailable, OutcomeUnknown) as error:
                    found = [error] * len(indexes)
                for index, reply in zip(indexes, found, strict=True):
                    replies[index] = reply
                    if (successor := self._successor(slots[index], node, reply)) is not None:
                        waiting[index] = successor
        return replies

    def at(self, key: str) -> ConnectionPool:
        return self.node(slot_of(key))

    def close(self) -> None:
        for node in self._nodes.values():
            node.close()


class ClusterCommitter:
    """A committer per primary: group commit among the calls to each."""

    def __init__(self, cluster: Cluster, ack: Ack, limits: BrokerLimits) -> None:
        self._cluster = cluster
        self._ack = ack
        self._limits = limits
        self._committers: dict[ConnectionPool, Committer] = {}

    def call(self, call: ScriptCall | Append) -> tuple[Any, str]:
        """Run one script on the primary of its first key, as ``Committer.call`` does."""
        return self._cluster.routed(call.keys[0], lambda node: self._of(node).call(call))

    def call_all(self, calls: Sequence[ScriptCall | Append]) -> list[tuple[Any, str]]:
        """Run scripts, each on the primary of its first key, in one round trip to each primary, one after the other;
        see ``Committer.call_all``."""
        missing: dict[int, str] = {}  # by the place of the call

        def send(node: ConnectionPool, places: Sequence[int]) -> list[Any]:
            found = self._of(node).call_all([calls[place] for place in places])
            missing.update(zip(places, (lacks for _, lacks in found), strict=True))
            return [reply for reply, _ in found]

        replies = self._cluster.send_each(range(len(calls)), lambda place: calls[place].keys[0], send)
        return [(reply, missing.get(place, "")) for place, reply in enumerate(replies)]

    def _of(self, node: ConnectionPool) -> Committer:
        found = self._committers.get(node)
        if found is None:
            # Committers of former primaries are dropped; their pending requests still get answers.
            kept = self._cluster.primaries()
            self._committers = {pool: one for pool, one in self._committers.items() if pool in kept}
            found = self._committers.setdefault(node, Committer(node, self._ack, self._limits))
        return found

    def close(self) -> None:
        for committer in self._committers.values():
            committer.close()


def _hosts_of(answered_by: Host, nodes: Sequence[Sequence[Any]]) -> list[Host]:
    """Return the hosts of a range, its primary first. A node without a name has that of the node that answered."""
    return [(answered_by[0] if node[0] in _NAMELESS else node[0].decode(), int(node[1])) for node in nodes]
