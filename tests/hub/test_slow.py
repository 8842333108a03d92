"""What is kept for slow streams counts in the memory budget; without room the largest holder goes first."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pushsvc.hub.delivery.channel import Channel, WatchedChannels
from pushsvc.web.memory.budget import MemoryBudget
from support.channels import Site
from support.peer import Peer
from support.waiting import turn_until

MESSAGE = b"data: %b\n\n" % (b"x" * 1_000)
TOTAL = 400_000  # three quarters of it are for backlogs


class Watched:
    """Channels of one writer that count in one budget."""

    def __init__(self) -> None:
        self.site = Site()
        self.memory = MemoryBudget(TOTAL, TOTAL)
        self.watched = WatchedChannels()
        self.watched.slow.memory = self.memory
        self.channels: list[Channel] = []

    def channel(self) -> Channel:
        site = self.site
        self.channels.append(
            Channel(site.writer, site.clock, site.recovery, lambda: None, lambda _: None, watched=self.watched)
        )
        return self.channels[-1]

    def broadcast(self, channel: Channel, count: int) -> None:
        for _ in range(count):
            channel.broadcast([MESSAGE])
            turn_until(lambda: not channel.in_pass)

    def close(self) -> None:
        for channel in self.channels:
            for member in list(channel.roster.members):
                member.close()
        self.site.close()


@pytest.fixture
def made() -> Iterator[Watched]:
    watched = Watched()
    yield watched
    watched.close()
    while Peer.opened:
        Peer.opened.pop().close()


def test_nothing_is_counted_while_all_members_are_quick(made: Watched) -> None:
    channel = made.channel()
    quick = Peer(channel)
    for _ in range(20):
        made.broadcast(channel, 5)
        quick.read()
    assert (made.memory.held, len(made.watched.slow)) == (0, 0)


def test_the_count_follows_a_slow_member(made: Watched) -> None:
    channel = made.channel()
    slow = Peer(channel, buffer=4_096)
    made.broadcast(channel, 100)
    assert 80_000 < made.memory.held < 110_000
    assert made.memory.held == pytest.approx(channel.recount(), abs=8_000)
    turn_until(lambda: len(slow.read()) == 100 * len(MESSAGE))
    turn_until(lambda: not channel.slow)
    assert made.memory.held == 0
    assert not slow.closed


def test_the_largest_holder_goes_first(made: Watched) -> None:
    small, large, other = made.channel(), made.channel(), made.channel()
    first, greedy, quick = Peer(small, buffer=4_096), Peer(large, buffer=4_096), Peer(large)
    made.broadcast(small, 60)
    for _ in range(20):
        made.broadcast(large, 10)
        quick.read()
    held = made.memory.held
    assert held > 200_000
    another = Peer(other, buffer=4_096)
    made.broadcast(other, 100)
    turn_until(lambda: greedy.closed)
    assert not first.closed
    assert not quick.closed
    assert not another.closed
    assert large.backlog.size == 0
    assert made.memory.held < 200_000


def test_many_slow_channels_stay_within_the_budget(made: Watched) -> None:
    peers = [Peer(made.channel(), buffer=4_096) for _ in range(20)]
    for channel in made.channels:
        made.broadcast(channel, 50)
        assert made.memory.held <= TOTAL
        turn_until(lambda: sum(one.recount() for one in made.watched.slow) <= TOTAL)
    assert sum(peer.closed for peer in peers) >= 10


def test_messages_of_one_member_count_at_once(made: Watched) -> None:
    """The first messages of a stream may be a snapshot of many megabytes."""
    channel = made.channel()
    peers = [Peer(channel, buffer=4_096) for _ in range(3)]
    channel.start(peers[0].connection, channel.backlog.end, b"x" * 100_000)
    assert made.memory.held >= 100_000
    for peer in peers[1:]:
        channel.start(peer.connection, channel.backlog.end, b"y" * 150_000)
    turn_until(lambda: all(peer.closed for peer in peers))
    turn_until(lambda: made.memory.held == 0)


def test_members_that_share_a_message_count_once(made: Watched) -> None:
    channel = made.channel()
    peers = [Peer(channel, buffer=4_096) for _ in range(50)]
    channel.broadcast([b"x" * 100_000])
    turn_until(lambda: not channel.in_pass)
    assert len(channel.slow) == 50
    assert channel.recount() < 110_000
    assert not any(peer.closed for peer in peers)
