"""Connections join, leave, stall and end during a pass: each gets every message since it joined, once and in order."""

from __future__ import annotations

import random
from collections import Counter

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushsvc.hub.limits import FanoutLimits
from pushsvc.hub.messages import farewell
from support.channels import Site
from support.peer import Peer
from support.waiting import turn_until

STEPS = st.lists(
    st.sampled_from(
        ["broadcast", "turn", "quiet", "beat"] * 3
        + ["large", "read", "join", "join", "plain", "stall", "close", "gone", "end"]
    ),
    min_size=50,
    max_size=150,
)


class Case:
    """A channel, the bytes that it broadcast, and its peers with the bytes that each must have in the end."""

    def __init__(self, seed: int, limits: FanoutLimits, *, io_uring: bool) -> None:
        self.site = Site(limits, io_uring=io_uring)
        self.channel = self.site.channel
        self.chance = random.Random(seed)
        self.sent = b""
        self.peers: list[Peer] = []
        self.begins: dict[Peer, int] = {}
        self.ends: dict[Peer, int] = {}
        self.finished: set[Peer] = set()
        self.complete: set[Peer] = set()
        self.beats: Counter[Peer] = Counter()

    def join(self, buffer: int | None = None, *, chunked: bool = True) -> None:
        self.channel.seal()  # else the messages of this turn would also be for the new connection
        peer = Peer(self.channel, buffer, chunked=chunked)
        self.begins[peer] = len(self.sent)
        self.peers.append(peer)

    def broadcast(self, size: int) -> None:
        message = b"%06d" % len(self.sent) + b"x" * size + b"\n"
        self.sent += message
        self.channel.broadcast([message])

    @staticmethod
    def turn() -> None:
        """Give the loop one turn, which is one step of a pass."""
        gevent.get_hub().wait(gevent.get_hub().loop.timer(0))

    def step(self, name: str) -> None:
        open_peers = [peer for peer in self.peers if peer not in self.ends]
        peer = self.chance.choice(open_peers) if open_peers else None
        if name in ("broadcast", "large"):
            self.broadcast(6_000 if name == "large" else 10)
        elif name == "turn":
            self.turn()
        elif name == "quiet":
            while self.channel.in_pass:
                self.turn()
        elif name in ("join", "stall", "plain") or peer is None:
            self.join(4_096 if name == "stall" else None, chunked=name != "plain")
        elif name == "beat":
            if peer.connection.rest is None and peer.connection.at is self.channel.backlog.end:
                size = self.chance.choice([10, 300_000])
                peer.connection.push(b"~" * size)  # as a heartbeat
                self.beats[peer] += size
        elif name == "read":
            peer.read(self.chance.choice([1, 1_000, 65_536]))
        else:
            self.let_go(peer, name)

    def let_go(self, peer: Peer, how: str) -> None:
        self.ends[peer] = len(self.sent)
        if how == "end":
            self.finished.add(peer)
            self.channel.finish(peer.connection, farewell("bye"))
            if peer.closed:  # else its socket was full, and its client resumes after what it got
                self.complete.add(peer)
        elif how == "close":
            peer.connection.close()
        else:
            peer.theirs.close()

    def check_rests(self) -> None:
        """A connection that is behind keeps the rest of one chunk; all other chunks are shared."""
        for peer in self.peers:
            rest, at = peer.connection.rest, peer.connection.at
            if rest is not None and at is not None and at.data and not self.beats[peer] and peer not in self.ends:
                assert rest.obj is at.data

    def check(self) -> None:
        for peer in self.peers:
            expected = self.sent[self.begins[peer] :]
            if peer not in self.ends:
                turn_until(lambda: len(peer.read()) >= len(expected) + self.beats[peer])  # noqa: B023
                assert peer.got.replace(b"~", b"") == expected
                assert not peer.closed
            elif peer.theirs.fileno() >= 0:
                turn_until(lambda: self._is_drained(peer) and peer.closed)  # noqa: B023
                self._is_drained(peer)
                got = peer.got.replace(b"~", b"").partition(b"retry: ")[0]
                assert expected.startswith(got)
                assert peer not in self.complete or len(got) == self.ends[peer] - self.begins[peer]
                assert peer.complete == (peer.chunked and peer in self.finished), "only a cut lacks the last chunk"

    @staticmethod
    def _is_drained(peer: Peer) -> bool:
        while len(peer.got) < len(peer.read()):
            pass
        return True

    def close(self) -> None:
        for peer in self.peers:
            peer.connection.close()
            peer.theirs.close()
        Peer.opened.clear()
        self.site.close()


@pytest.mark.parametrize("io_uring", [True, False], ids=["io_uring", "syscalls"])
@given(STEPS, st.integers(0, 2**32), st.sampled_from([2, 5, 200]))
def test_every_connection_gets_each_message_once_and_in_order(
    io_uring: bool, steps: list[str], seed: int, step_members: int
) -> None:
    limits = FanoutLimits(join=0.0, slice=0.0, step_bytes=0, step_members=step_members)
    case = Case(seed, limits, io_uring=io_uring)
    try:
        for _ in range(6):
            case.join()
        for name in steps:
            case.step(name)
            case.check_rests()
        case.check()
    finally:
        case.close()
