"""A cluster: which primary has which slot, and calls that find theirs.

A key's slot names its primary, as in the cluster itself. A call goes to another node only where it did not run at the
first: that answered MOVED, or could not be reached at all. ASK is not followed, because a node that is only taking a
slot over refuses scripts of which a single key does not exist there: such a call may come again (BrokerUnavailable).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, TypeVar

from redis import exceptions

from pushsvc.broker.append import Append
from pushsvc.broker.cluster.address import Address, Host, shown
from pushsvc.broker.committer import Committer
from pushsvc.broker.connection import Connections, Moved, ask, raise_first
from pushsvc.broker.keys import SLOTS, TAGS, slot_of
from pushsvc.broker.script import Argument, Call, Script
from pushsvc.errors import BrokerUnavailable, OutcomeUnknown, PushError, StartupError
from pushsvc.settings import Ack

T = TypeVar("T")

REDIRECTS = 3
"""How often a call is sent on at most; a slot that is still elsewhere then is on its way."""

ASKED_LATELY = 0.2
"""Seconds within which the cluster is not asked again which primary has which slot."""

_NAMELESS = (None, b"", b"?")

REST = 5.0
"""Seconds for which a node that did not answer a connect in time is left alone: the others are not to wait for it."""


class Cluster:
    """The calls of Connections, each sent to the primary of its key. ``size`` bounds the connections to each."""

    publish_command = "SPUBLISH"

    def __init__(self, address: Address, *, size: int, name: str = "pushsvc") -> None:
        self._address = address
        self._size = size
        self._name = name
        self._nodes: dict[Host, Connections] = {}
        self._slots: list[Connections | None] = [None] * SLOTS
        self._known = list(address.hosts)
        self._turn = -1
        self._asking = threading.Lock()
        self._asked = float("-inf")
        self.on_change: list[Callable[[], None]] = []
        """Called after slots have moved."""

    # Which primary has which slot

    def node(self, slot: int) -> Connections:
        """Return the connections to the primary of a slot; raise BrokerUnavailable."""
        found = self._slots[slot]
        if found is None:
            self.refresh()
            found = self._slots[slot]
        if found is None:
            raise BrokerUnavailable(f"no primary of the cluster has slot {slot}")
        return found

    def known(self, slot: int) -> Connections | None:
        """Return the connections to the primary of a slot as far as it is known, without asking."""
        return self._slots[slot]

    def primaries(self) -> list[Connections]:
        """Return the connections to all primaries; raise BrokerUnavailable where none is known."""
        if not self._nodes:
            self.refresh()
        return list(self._nodes.values())

    def partitions_of(self, node: Connections) -> list[int]:
        """Return the partitions that a primary has."""
        return [number for number, tag in enumerate(TAGS) if self._slots[slot_of(tag)] is node]

    def refresh(self) -> None:
        """Ask the cluster which primary has which slot, unless that was done a moment ago."""
        with self._asking:
            if monotonic() - self._asked < ASKED_LATELY:
                return
            try:
                self._take(self._ask())
            finally:
                self._asked = monotonic()

    def _ask(self) -> list[tuple[int, int, list[Host]]]:
        # In turn: one that is cut off from the others, and does not know it, must not be asked for ever.
        self._turn += 1
        start = self._turn % len(self._known)
        failures = []
        for host in self._known[start:] + self._known[:start]:
            try:
                found = ask(self._address.server(host), "CLUSTER", "SLOTS")
            except BrokerUnavailable as error:
                failures.append(f"{shown(host)}: {error.detail}")
            except exceptions.ResponseError as error:
                if "cluster support disabled" in str(error) or "unknown command" in str(error).lower():
                    raise StartupError(f"{shown(host)} is not a node of a cluster: name it as redis://…") from error
                failures.append(f"{shown(host)}: {error}")
            else:
                if found:
                    return [(first, last, _places(host, places)) for first, last, *places in found]
                failures.append(f"{shown(host)}: its cluster has no slots yet")
        raise BrokerUnavailable(f"no node of the cluster answers: {', '.join(failures)}")

    def _take(self, ranges: Sequence[tuple[int, int, list[Host]]]) -> None:
        """Take what the cluster says; connections to primaries that are none any more are let go."""
        nodes = {places[0]: self._nodes.get(places[0]) or self._connect(places[0]) for _, _, places in ranges}
        slots: list[Connections | None] = [None] * SLOTS
        for first, last, places in ranges:
            slots[first : last + 1] = [nodes[places[0]]] * (last + 1 - first)
        changed = slots != self._slots
        left = [node for host, node in self._nodes.items() if host not in nodes]
        self._nodes, self._slots = nodes, slots
        self._known = list(dict.fromkeys([*(host for _, _, places in ranges for host in places), *self._address.hosts]))
        if changed:
            self._tell()
        for node in left:
            node.close(busy=False)

    def _connect(self, host: Host) -> Connections:
        return Connections(self._address.server(host), size=self._size, name=self._name, kind="cluster", rest=REST)

    def _tell(self) -> None:
        for listener in self.on_change:
            listener()

    def _follow(self, moved: Moved, told_by: Connections) -> Connections:
        """Return where an answer says that a slot is. The rest of the map is asked for when more is doubted."""
        name, port = moved.host
        host = (name or self._host_of(told_by), port)
        node = self._nodes.get(host) or self._connect(host)
        if self._slots[moved.slot] is not node:
            self._nodes = {**self._nodes, host: node}
            self._slots[moved.slot] = node
            self._tell()
        return node

    def _host_of(self, node: Connections) -> str:
        return next((host for (host, _), found in self._nodes.items() if found is node), "")

    # Calls

    def routed(self, key: str, act: Callable[[Connections], T]) -> T:
        """Act on the primary of a key, and on another one where nothing was done."""
        slot = slot_of(key)
        node = self.node(slot)
        for _ in range(REDIRECTS):
            try:
                return act(node)
            except BrokerUnavailable as error:
                successor = self._successor(slot, node, error)
                if successor is None:
                    raise
                node = successor
        return act(node)

    def _successor(self, slot: int, node: Connections, answer: Any) -> Connections | None:
        """Return where to send a call that did not run; None where it did, or where nobody else has the slot."""
        if isinstance(answer, Moved):
            return self._follow(answer, node)
        if not isinstance(answer, BrokerUnavailable):
            return None
        try:
            self.refresh()
            found = self.node(slot)
        except BrokerUnavailable:
            return None
        return None if found is node else found

    def command(self, *words: Argument) -> Any:
        """Send one command that only reads, and return its answer; its first argument is its key."""
        return self.commands([words])[0]

    def commands(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Send commands that may be lost or repeated, a round trip per primary; raise for the first that fails."""
        answers = self._each(commands, lambda words: str(words[1]), Connections.exchange)
        raise_first(answers)
        return answers

    def call(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run one script; raise BrokerUnavailable (nothing done), OutcomeUnknown or BrokerFull."""
        answers = self.calls([Call(script, keys, args)])
        raise_first(answers)
        return answers[0]

    def calls(self, calls: Sequence[Call]) -> list[Any]:
        """Run scripts, a round trip per primary. The answer of one that failed is its error: others have succeeded."""
        return self._each(calls, lambda call: call.keys[0], Connections.calls)

    def _each(
        self, items: Sequence[T], key_of: Callable[[T], str], send: Callable[[Connections, Sequence[T]], list[Any]]
    ) -> list[Any]:
        """Send each item to the node of its key, all of a node together; sent on is what did not run."""
        answers: list[Any] = [None] * len(items)
        slots = [slot_of(key_of(item)) for item in items]
        waiting: dict[int, Connections | None] = dict.fromkeys(range(len(items)))
        for _ in range(REDIRECTS + 1):
            shares: dict[Connections, list[int]] = {}
            for index, sent_on in waiting.items():
                try:
                    shares.setdefault(sent_on or self.node(slots[index]), []).append(index)
                except BrokerUnavailable as error:
                    answers[index] = error
            waiting = {}
            for node, indexes in shares.items():
                for index, found in zip(indexes, _sent(send, node, [items[i] for i in indexes]), strict=True):
                    answers[index] = found
                    if (successor := self._successor(slots[index], node, found)) is not None:
                        waiting[index] = successor
        return answers

    def at(self, key: str) -> Connections:
        """Return the connections to the primary of a key."""
        return self.node(slot_of(key))

    def everywhere(self, *words: Argument) -> list[Any]:
        """Send one command to every primary, and return the answers; raise for the first that fails."""
        return [node.command(*words) for node in self.primaries()]

    def anywhere(self, *words: Argument) -> Any:
        """Send one command to whichever primary answers."""
        failure: PushError = BrokerUnavailable("the cluster has no primaries")
        for node in self.primaries():
            try:
                return node.command(*words)
            except PushError as error:
                failure = error
        raise failure

    def close(self) -> None:
        """Close every connection."""
        for node in self._nodes.values():
            node.close()


class ClusterCommitter:
    """A committer per primary: group commit among the calls to each."""

    def __init__(self, cluster: Cluster, ack: Ack) -> None:
        self._cluster = cluster
        self._ack = ack
        self._committers: dict[Connections, Committer] = {}

    def call(self, call: Call | Append) -> tuple[Any, str]:
        """Run one script on the primary of its first key, as ``Committer.call`` does."""
        return self._cluster.routed(call.keys[0], lambda node: self._of(node).call(call))

    def _of(self, node: Connections) -> Committer:
        found = self._committers.get(node)
        if found is None:
            # Those of primaries that are none any more are let go; who still waits for one gets its answer.
            kept = self._cluster.primaries()
            self._committers = {one: its for one, its in self._committers.items() if one in kept}
            found = self._committers.setdefault(node, Committer(node, self._ack))
        return found

    def close(self) -> None:
        for committer in self._committers.values():
            committer.close()


def _places(told_by: Host, places: Sequence[Sequence[Any]]) -> list[Host]:
    """Return where the nodes of a range are, its primary first; one without a name is where the answer came from."""
    return [(told_by[0] if place[0] in _NAMELESS else place[0].decode(), int(place[1])) for place in places]


def _sent(send: Callable[[Connections, Sequence[T]], list[Any]], node: Connections, items: Sequence[T]) -> list[Any]:
    """Send items to a node; where that fails as a whole each gets the error."""
    try:
        return send(node, items)
    except (BrokerUnavailable, OutcomeUnknown) as error:
        return [error] * len(items)
