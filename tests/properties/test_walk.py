"""Whoever comes, goes, stalls or is ended while a walk pauses: each gets what was said since, in order and once."""

from __future__ import annotations

import random
from collections import Counter

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushsvc.broker.broker import Broker
from pushsvc.hub.delivery import writer as flush
from pushsvc.hub.hub import Hub
from pushsvc.hub.query import Query
from support.peer import Peer
from support.waiting import turn_until

STEPS = st.lists(
    st.sampled_from(
        ["say", "turn", "quiet", "beat"] * 3 + ["large", "read", "join", "join", "stall", "close", "gone", "end"]
    ),
    min_size=50,
    max_size=150,
)


class Case:
    """A group without logs, what was said in it, and its peers, each with what it is to have in the end."""

    def __init__(self, seed: int, *, io_uring: bool) -> None:
        self.group = Hub(Broker("unix:///nothing.sock"), io_uring=io_uring).group(Query())
        self.group.look()
        self.chance = random.Random(seed)
        self.said = b""
        self.peers: list[Peer] = []
        self.begins: dict[Peer, int] = {}
        self.ends: dict[Peer, int] = {}
        self.whole: set[Peer] = set()
        self.beats: Counter[Peer] = Counter()

    def join(self, buffer: int | None = None) -> None:
        self.group.seal()  # or what was said in this turn would be for who comes now, too
        peer = Peer(self.group, buffer)
        self.begins[peer] = len(self.said)
        self.peers.append(peer)

    def say(self, size: int) -> None:
        message = b"%06d" % len(self.said) + b"x" * size + b"\n"
        self.said += message
        self.group.say([message])

    @staticmethod
    def turn() -> None:
        """Give the loop one turn, which is one piece of a walk."""
        gevent.get_hub().wait(gevent.get_hub().loop.timer(0))

    def step(self, name: str) -> None:
        here = [peer for peer in self.peers if peer not in self.ends]
        peer = self.chance.choice(here) if here else None
        if name in ("say", "large"):
            self.say(6_000 if name == "large" else 10)
        elif name == "turn":
            self.turn()
        elif name == "quiet":
            while self.group.walking:
                self.turn()
        elif name in ("join", "stall") or peer is None:
            self.join(4_096 if name == "stall" else None)
        elif name == "beat":
            if peer.connection.rest is None and peer.connection.at is self.group.tape.end:
                size = self.chance.choice([10, 300_000])
                peer.connection.push(b"~" * size)  # breaks a silence, as the hub does
                self.beats[peer] += size
        elif name == "read":
            peer.read(self.chance.choice([1, 1_000, 65_536]))
        else:
            self.let_go(peer, name)

    def let_go(self, peer: Peer, how: str) -> None:
        self.ends[peer] = len(self.said)
        if how == "end":
            self.group.hub.finish(peer.connection, "bye")
            if peer.closed:  # else its socket was full, and it resumes behind what it got
                self.whole.add(peer)
        elif how == "close":
            peer.connection.close()
        else:
            peer.theirs.close()

    def look(self) -> None:
        """See that whoever is behind keeps nothing but what is left of one chunk: the others are kept once for all."""
        for peer in self.peers:
            rest, at = peer.connection.rest, peer.connection.at
            if rest is not None and at is not None and at.data and not self.beats[peer] and peer not in self.ends:
                assert rest.obj is at.data

    def check(self) -> None:
        for peer in self.peers:
            expected = self.said[self.begins[peer] :]
            if peer not in self.ends:
                turn_until(lambda: len(peer.read()) >= len(expected) + self.beats[peer])  # noqa: B023
                assert peer.got.replace(b"~", b"") == expected
                assert not peer.closed
            elif peer.theirs.fileno() >= 0:
                turn_until(lambda: self._drained(peer) and peer.closed)  # noqa: B023
                self._drained(peer)
                got = peer.got.replace(b"~", b"").partition(b"retry: ")[0]
                assert expected.startswith(got)
                assert peer not in self.whole or len(got) == self.ends[peer] - self.begins[peer]

    @staticmethod
    def _drained(peer: Peer) -> bool:
        while len(peer.got) < len(peer.read()):
            pass
        return True

    def close(self) -> None:
        for peer in self.peers:
            peer.connection.close()
            peer.theirs.close()
        Peer.opened.clear()
        self.group.hub.close()


@pytest.mark.parametrize("io_uring", [True, False], ids=["ring", "writes"])
@given(STEPS, st.integers(0, 2**32), st.sampled_from([2, 5, 200]))
def test_each_gets_what_was_said_since_in_order_and_once(
    io_uring: bool, steps: list[str], seed: int, at_once: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flush, "JOIN", 0.0)
        patch.setattr(flush, "SLICE", 0.0)
        patch.setattr(flush, "_AT_ONCE", 0)
        patch.setattr(flush, "_FEWEST", at_once)
        case = Case(seed, io_uring=io_uring)
        try:
            for _ in range(6):
                case.join()
            for name in steps:
                case.step(name)
                case.look()
            case.check()
        finally:
            case.close()
