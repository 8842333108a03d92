"""Channels over real sockets, without Redis: the tests broadcast the messages."""

import contextlib
import ctypes
import os
import socket
import ssl
import struct
import sys
from functools import partial
from pathlib import Path

import gevent
import pytest

from pushsvc.hub import streams
from pushsvc.hub.delivery import uring
from pushsvc.hub.delivery.connection import MAX_RECEIVED, Connection, IteratedConnection, SecureConnection
from pushsvc.hub.delivery.sender import SyscallSender
from pushsvc.hub.delivery.uring import UringSender, system_call
from pushsvc.hub.hub import Hub
from pushsvc.hub.limits import FanoutLimits
from pushsvc.hub.messages import farewell
from pushsvc.hub.query import Query
from support.chunked import ChunkDecoder
from support.metrics import metric
from support.peer import Peer, tls_pair
from support.waiting import DEADLINE, turn_until

NO_TIME = FanoutLimits(slice=0.0)
"""A pass pauses after every step."""


def test_messages_of_one_turn_arrive_together_and_in_order(channel):
    peers = [Peer(channel) for _ in range(100)]
    messages = [b"data: %d\n\n" % number for number in range(50)]
    for message in messages:
        channel.broadcast([message])
    turn_until(lambda: all(peer.read() == b"".join(messages) for peer in peers))
    assert channel.backlog.end.number == 1
    turn_until(lambda: not channel.in_pass)
    assert channel.backlog.size == 0, "chunks that every connection has are not kept"


def test_pass_pauses_and_continues_at_its_position(make_site):
    channel = make_site(NO_TIME).channel
    peers = [Peer(channel) for _ in range(50)]
    seen = []
    channel.broadcast([b"first\n"])

    def watch():
        while not seen or seen[-1] < 50:
            seen.append(sum(bool(peer.read()) for peer in peers))
            gevent.sleep(0)

    watching = gevent.spawn(watch)
    channel.broadcast([b"second\n"])
    watching.join(DEADLINE)
    assert any(0 < count < 50 for count in seen), "nothing else had a turn during the pass"
    turn_until(lambda: all(peer.read() == b"first\nsecond\n" for peer in peers))


def test_large_messages_go_to_fewer_members_per_step(make_site, monkeypatch):
    site = make_site(NO_TIME)
    channel, sender = site.channel, site.writer.sender
    peers = [Peer(channel) for _ in range(60)]
    channel.broadcast([b"small\n"])
    turn_until(lambda: all(peer.read() for peer in peers))
    turn_until(lambda: not channel.in_pass)
    steps, send = [], sender.send

    def record(descriptors, data):
        steps.append(len(descriptors))
        return send(descriptors, data)

    monkeypatch.setattr(sender, "send", record)
    channel.broadcast([b"x" * 100_000])
    turn_until(lambda: not channel.in_pass)
    turn_until(lambda: all(len(peer.read()) == 100_006 for peer in peers))
    assert steps == [16, 16, 16, 12]


def test_connection_that_joins_during_a_pass_gets_the_next_messages_once(make_site):
    channel = make_site(NO_TIME).channel
    peers = [Peer(channel) for _ in range(200)]
    channel.broadcast([b"before\n"])
    turn_until(lambda: peers[0].read())
    channel.seal()
    late = Peer(channel)
    channel.broadcast([b"after\n"])
    turn_until(lambda: all(peer.read() == b"before\nafter\n" for peer in peers))
    turn_until(lambda: late.read() == b"after\n")


def test_error_in_one_delivery_is_counted_and_affects_no_other(site, caplog):
    class Broken(Connection):
        """Stands for an error of our own."""

        __slots__ = ()

        def send(self, data):
            raise RuntimeError("broken")

    channel = site.channel
    peers = [Peer(channel) for _ in range(10)]
    before = metric("pushsvc_dispatch_errors_total")
    broken = peers[4].connection
    os.close(broken.fd)
    broken.__class__, broken.fd = Broken, -1
    channel.broadcast([b"one\n"])
    turn_until(lambda: all(peer.read() == b"one\n" for peer in peers if peer is not peers[4]))
    channel.broadcast([b"two\n"])
    turn_until(lambda: all(peer.read() == b"one\ntwo\n" for peer in peers if peer is not peers[4]))
    assert peers[4].closed == 1
    assert metric("pushsvc_dispatch_errors_total") == before + 1
    assert "broken" in caplog.text
    assert site.left == 1


def test_every_delivery_is_counted_once(make_site):
    """Peers are caught up, not caught up, full, broken, and passed over because they are behind.

    Without a time to join, a pass begins before the loop polls the sockets: it finds the broken one still open.
    """
    channel = make_site(FanoutLimits(join=0)).channel
    peers = [Peer(channel) for _ in range(6)] + [Peer(channel, buffer=4_096) for _ in range(3)]
    narrow = peers[6:]

    def broadcast(message):
        channel.broadcast([message])
        turn_until(lambda: not channel.in_pass)

    broadcast(b"zero\n")  # the last pass of an earlier test has ended then, and is counted
    turn_until(lambda: all(peer.read() == b"zero\n" for peer in peers))
    messages, size = metric("pushsvc_deliveries_total"), metric("pushsvc_stream_bytes_total")
    before = sum(peer.taken for peer in peers)
    first = channel.backlog.end.number
    broadcast(b"one\n")
    peers[2].connection.mark_behind()  # the pass looks at it, as it would over TLS
    for peer in narrow:
        while peer.connection.rest is None:
            broadcast(b"x" * 5_000)
    peers[3].connection.close()
    sent = channel.backlog.end.number - first
    broadcast(b"two\n")
    peers[4].reset()
    broadcast(b"three\n")
    open_peers = [peer for peer in peers if peer not in peers[3:5]]
    for peer in open_peers:
        turn_until(lambda: peer.read().endswith(b"three\n"))  # noqa: B023
    for peer in peers:
        peer.read()
    assert metric("pushsvc_stream_bytes_total") - size == sum(peer.taken for peer in peers) - before
    # Seven have all, one was closed before the last two, and the broken one was offered the last.
    assert metric("pushsvc_deliveries_total") - messages == 7 * (sent + 2) + sent + (sent + 2)


def test_closed_hub_releases_its_io_uring(broker):
    hub = Hub(broker)
    group = hub.group(Query())
    group.on_read(())
    before = open_io_urings()
    peers = [Peer(group.channel, hub=hub) for _ in range(2)]
    group.channel.broadcast([b"one\n"])
    turn_until(lambda: all(peer.read() == b"one\n" for peer in peers))
    group.channel.broadcast([b"two\n"])
    turn_until(lambda: all(peer.read() == b"one\ntwo\n" for peer in peers))
    assert open_io_urings() > before or isinstance(hub.writer.sender, SyscallSender)
    hub.close()
    del group
    assert isinstance(hub.writer.sender, SyscallSender)
    assert open_io_urings() == before
    assert metric("pushsvc_io_uring") == 0
    for peer in peers:
        peer.theirs.close()


def test_only_member_gets_every_message_once_in_order_and_is_counted(site):
    channel = site.channel
    peer = Peer(channel)
    channel.broadcast([b"start\n"])
    turn_until(lambda: peer.read() == b"start\n")
    turn_until(lambda: not channel.in_pass)  # the last pass of an earlier test has ended before, and is counted
    size, messages, taken = metric("pushsvc_stream_bytes_total"), metric("pushsvc_deliveries_total"), peer.taken
    expected = b"start\n"
    for number in range(50):
        expected += (message := b"%d\n" % number)
        channel.broadcast([message])
        if number % 3:
            turn_until(lambda: not channel.in_pass)
    turn_until(lambda: peer.read() == expected)
    turn_until(lambda: not channel.in_pass)
    assert metric("pushsvc_deliveries_total") - messages == 50
    assert metric("pushsvc_stream_bytes_total") - size == peer.taken - taken


def test_only_member_that_is_full_continues_when_it_has_room(site):
    channel = site.channel
    peer = Peer(channel)
    channel.broadcast([b"first\n"])
    turn_until(lambda: peer.read() == b"first\n")
    sent = b"first\n"
    while peer.connection.rest is None:
        sent += (message := b"x" * 50_000 + b"\n")
        channel.broadcast([message])
        turn_until(lambda: not channel.in_pass)
    assert peer.connection in channel.slow
    sent += b"last\n"
    channel.broadcast([b"last\n"])
    turn_until(lambda: peer.read() == sent)
    turn_until(lambda: not channel.slow)
    channel.broadcast([b"later\n"])
    turn_until(lambda: peer.read() == sent + b"later\n")


def test_only_member_whose_socket_is_broken_leaves(site):
    channel = site.channel
    peer = Peer(channel)
    channel.broadcast([b"one\n"])
    turn_until(lambda: peer.read() == b"one\n")
    peer.reset()
    channel.broadcast([b"two\n"])
    turn_until(lambda: peer.connection.closed)
    assert channel.roster.is_empty
    assert site.left == 1


def open_io_urings():
    found = 0
    for path in Path("/proc/self/fd").glob("*"):
        with contextlib.suppress(OSError):
            found += os.readlink(path) == "anon_inode:[io_uring]"
    return found


@pytest.mark.parametrize("make_site", [True], ids=["io_uring"], indirect=True)
def test_io_uring_that_fails_during_a_pass_loses_no_message(make_site, monkeypatch):
    failing = False

    def submit(call, number, fd, count, *rest):
        return call(number, fd, 4 if failing else count, *rest)

    monkeypatch.setattr(uring, "system_call", lambda: partial(submit, system_call()))
    site = make_site()
    channel = site.channel
    peers = [Peer(channel) for _ in range(10)]
    channel.broadcast([b"one\n"])
    turn_until(lambda: all(peer.read() == b"one\n" for peer in peers))
    if not isinstance(site.writer.sender, UringSender):
        pytest.skip("this kernel grants no io_uring")
    failing = True
    channel.broadcast([b"two\n"])
    turn_until(lambda: all(peer.read() == b"one\ntwo\n" for peer in peers))
    assert not isinstance(site.writer.sender, UringSender)
    channel.broadcast([b"three\n"])
    turn_until(lambda: all(peer.read() == b"one\ntwo\nthree\n" for peer in peers))
    turn_until(lambda: not channel.in_pass)
    assert channel.backlog.size == 0
    assert metric("pushsvc_io_uring") == 0


def test_slow_reader_gets_every_byte_from_the_shared_backlog(channel):
    quick, slow = Peer(channel), Peer(channel, buffer=4_096)
    sent = b""
    for number in range(200):
        message = b"data: %05d%b\n\n" % (number, b"x" * 1_000)
        sent += message
        channel.broadcast([message])
        turn_until(lambda: quick.read() == sent)  # noqa: B023
    assert slow.connection in channel.slow
    assert 0 < channel.recount() <= len(sent) + 4_096
    turn_until(lambda: slow.read(1_000) == sent)
    turn_until(lambda: not channel.slow)
    channel.broadcast([b"more\n"])
    turn_until(lambda: slow.read() == sent + b"more\n" == quick.read())
    assert channel.recount() == 0


def test_peer_may_read_one_byte_at_a_time(channel):
    peer = Peer(channel, buffer=4_096)
    sent = b"".join(b"data: %d\n\n" % number for number in range(3_000))
    channel.broadcast([sent])
    turn_until(lambda: [peer.read(1) for _ in range(500)][-1] == sent)


def overflow(channel):
    """Broadcast until a slow reader has lost its place in a backlog of 50,000 bytes; return it."""
    quick, slow = Peer(channel), Peer(channel, buffer=4_096)
    for number in range(300):
        channel.broadcast([b"data: %05d%b\n\n" % (number, b"x" * 1_000)])
        turn_until(lambda: quick.read().count(b"data") == number + 1)  # noqa: B023
    turn_until(lambda: channel.backlog.size <= 50_000)  # a pass trims the backlog at its end
    return slow


def test_connection_beyond_the_backlog_is_recovered(make_site):
    site = make_site(FanoutLimits(backlog_bytes=50_000))
    slow = overflow(site.channel)
    turn_until(lambda: slow.read() and site.recovery.recovered == [slow.connection])


@pytest.mark.parametrize("io_uring", [True, False], ids=["io_uring", "syscalls"])
def test_dropped_backlog_of_a_group_is_counted(broker, io_uring):
    hub = Hub(broker, io_uring=io_uring, fanout_limits=FanoutLimits(backlog_bytes=50_000))
    group = hub.group(Query())
    group.on_read(())
    dropped = metric("pushsvc_backlogs_dropped_total")
    slow = overflow(group.channel)
    turn_until(lambda: slow.read() and metric("pushsvc_backlogs_dropped_total") == dropped + 1)
    hub.close()


@pytest.mark.parametrize("how", ["close", "half", "reset", "flood"])
def test_peer_that_goes_away_is_noticed_at_once(site, how):
    channel = site.channel
    peer, other = Peer(channel), Peer(channel)
    if how == "close":
        peer.theirs.close()
    elif how == "half":
        peer.theirs.shutdown(socket.SHUT_WR)
    elif how == "reset":
        peer.reset()
    else:
        sent = 0
        while not peer.closed and sent < 4 * MAX_RECEIVED:
            with contextlib.suppress(OSError):
                sent += peer.theirs.send(b"GET / HTTP/1.1\r\n" * 64)
            gevent.sleep(0)
    turn_until(lambda: peer.closed)
    channel.broadcast([b"on\n"])
    turn_until(lambda: other.read() == b"on\n")
    assert peer.closed == 1
    assert site.left == 1


def test_hub_counts_its_open_streams(broker):
    hub = Hub(broker)
    group = hub.group(Query())
    peers = [Peer(group.channel, hub=hub) for _ in range(3)]
    assert hub.streams == 3
    peers[0].connection.close()
    assert hub.streams == 2
    hub.close()
    assert hub.streams == 0


def test_connections_that_come_and_go_leave_nothing(channel):
    staying = Peer(channel)
    for _ in range(500):
        peer = Peer(channel)
        peer.theirs.close()
        peer.connection.close()
    assert len(channel.roster.members) < 200
    channel.broadcast([b"still\n"])
    turn_until(lambda: staying.read() == b"still\n")


def test_farewell_follows_the_unfinished_message(channel):
    slow = Peer(channel, buffer=4_096)
    channel.broadcast([b"x" * 100_000])
    turn_until(lambda: slow.connection.rest is not None)
    channel.finish(slow.connection, farewell("bye"))
    assert not slow.closed
    turn_until(lambda: slow.read().count(b"x") == 100_000 and slow.complete)
    turn_until(lambda: slow.closed)
    assert slow.got.startswith(b"x" * 100_000 + b"retry: ")
    assert slow.got.endswith(b": bye\n")


def test_http_10_peer_gets_the_same_bytes_without_frames(channel):
    chunked, plain = Peer(channel), Peer(channel, chunked=False)
    messages = [b"data: %d\n\n" % number for number in range(20)]
    for message in messages:
        channel.broadcast([message])
        turn_until(lambda: not channel.in_pass)
    for peer in (chunked, plain):
        channel.finish(peer.connection, b"retry: 1\n")
        turn_until(lambda: peer.read() == b"".join(messages) + b"retry: 1\n")  # noqa: B023
        assert peer.closed
    assert chunked.complete
    assert plain.taken == len(plain.got), "a frame was sent to a client that cannot read it"


def test_slow_http_10_peer_gets_every_byte(channel):
    peer = Peer(channel, buffer=4_096, chunked=False)
    messages = [b"%03d" % number + b"x" * 3_000 for number in range(50)]
    for message in messages:
        channel.broadcast([message])
        turn_until(lambda: not channel.in_pass)
    assert peer.connection in channel.slow
    turn_until(lambda: peer.read(1_000) == b"".join(messages))


def test_stream_that_is_cut_has_no_last_chunk(channel):
    """So a client can tell that it lacks something."""
    peer = Peer(channel)
    channel.broadcast([b"one\n"])
    turn_until(lambda: peer.read() == b"one\n")
    peer.connection.close()
    turn_until(lambda: peer.theirs.fileno() >= 0 and peer.read() == b"one\n")
    assert not peer.complete


def test_closed_hub_ends_its_streams_in_order(broker):
    hub = Hub(broker)
    group = hub.group(Query())
    group.on_read(())
    peer = Peer(group.channel, hub=hub)
    hub.close()
    turn_until(lambda: peer.read() and peer.complete)


def test_iterated_stream_has_the_same_bytes(channel):
    iterated, peer = IteratedConnection(channel), Peer(channel)
    channel.join(iterated)
    iterated.at = channel.backlog.end
    pieces = []
    reading = gevent.spawn(lambda: pieces.extend(iterated))
    for number in range(20):
        channel.broadcast([b"data: %d\n\n" % number])
        gevent.sleep(0)
    turn_until(lambda: b"".join(pieces) == peer.read() != b"" and len(peer.got.split()) == 40)
    channel.finish(iterated, farewell("bye"))
    reading.join(DEADLINE)
    assert reading.successful()
    assert b": bye" in pieces[-1]
    assert iterated.closed


def test_unfinished_write_over_tls_is_repeated_with_the_same_bytes(channel):
    pair = socket.socketpair()
    for end in pair:
        Peer.opened.append(end)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        end.setblocking(False)
    ours, theirs = tls_pair(*pair)
    closed = []
    connection = SecureConnection(ours, channel, lambda: closed.append(1))
    channel.join(connection)
    connection.listen()
    connection.at = channel.backlog.end
    sent, got, chunks = b"", b"", ChunkDecoder()

    def read():
        nonlocal got
        with contextlib.suppress(ssl.SSLWantReadError):
            got += chunks.feed(theirs.recv(1_000))
        return got

    for number in range(50):
        sent += (message := b"data: %03d%b\n\n" % (number, b"x" * 3_000))
        channel.broadcast([message])
        gevent.sleep(0)
    turn_until(lambda: connection.rest is not None)
    turn_until(lambda: read() == sent)
    theirs.close()
    turn_until(lambda: closed == [1])


def test_message_pushed_to_a_full_socket_follows_the_rest(channel):
    """A heartbeat may come between two pieces of a replay, and find the socket full."""
    peer = Peer(channel, buffer=4_096)
    assert not peer.connection.push(b"a" * 1_000_000)
    assert not peer.connection.push(b"b" * 10)
    turn_until(lambda: len(peer.read()) == 1_000_010)
    assert peer.got == b"a" * 1_000_000 + b"b" * 10


@pytest.mark.skipif(sys.platform != "linux", reason="packets are dropped as Linux can")
def test_peer_behind_a_pulled_cable_is_noticed(channel):
    """The peer sends no end and no reset, and acknowledges nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    ours.setblocking(False)
    closed = []
    streams.prepare(ours, write_deadline=1)
    connection = Connection(ours.detach(), channel, lambda: closed.append(1))
    channel.join(connection)
    connection.listen()
    connection.at = channel.backlog.end
    drop_all = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))  # BPF: return 0 bytes of every packet
    theirs.setsockopt(socket.SOL_SOCKET, 26, struct.pack("@HP", 1, ctypes.addressof(drop_all)))  # SO_ATTACH_FILTER
    channel.broadcast([b"data: 1\n\n"])
    turn_until(lambda: closed)
    theirs.close()
