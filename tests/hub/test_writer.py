"""Groups, connections and the walk over real sockets, without Redis: what is said is put in by hand."""

import contextlib
import ctypes
import os
import socket
import ssl
import struct
import sys
from pathlib import Path

import gevent
import pytest

from pushsvc.broker.broker import Broker
from pushsvc.hub import metrics, streams
from pushsvc.hub.delivery import backlog as tape_module
from pushsvc.hub.delivery import uring as ring
from pushsvc.hub.delivery import writer as flush
from pushsvc.hub.delivery.connection import READ_AT_MOST, Connection, IteratedConnection, SecureConnection
from pushsvc.hub.delivery.sender import Writes
from pushsvc.hub.delivery.uring import Ring
from pushsvc.hub.feed import follower
from pushsvc.hub.groups import listing
from pushsvc.hub.hub import Hub
from pushsvc.hub.query import Query
from pushsvc.metrics.buffered import FLUSHER
from support.peer import Peer, tls_pair
from support.waiting import DEADLINE, turn_until


@pytest.fixture(params=[True, False], ids=["ring", "writes"])
def group(broker, request):
    """A group that follows nothing, and so is settled."""
    found = Hub(broker, io_uring=request.param).group(Query())
    found.look()
    yield found
    found.hub.close()
    while Peer.opened:
        Peer.opened.pop().close()


def value(metric):
    return metric._value.get()


def test_messages_of_one_turn_arrive_together_and_in_order_at_everybody(group):
    peers = [Peer(group) for _ in range(100)]
    messages = [b"data: %d\n\n" % number for number in range(50)]
    for message in messages:
        group.say([message])
    turn_until(lambda: all(peer.read() == b"".join(messages) for peer in peers))
    assert group.tape.end.number == 1
    assert group.tape.size == 0, "what everybody has is not kept"


def test_a_walk_pauses_and_goes_on_where_it_was(group, monkeypatch):
    monkeypatch.setattr(flush, "SLICE", 0.0)
    peers = [Peer(group) for _ in range(50)]
    seen = []
    group.say([b"first\n"])

    def watch():
        while not seen or seen[-1] < 50:
            seen.append(sum(bool(peer.read()) for peer in peers))
            gevent.sleep(0)

    watching = gevent.spawn(watch)
    group.say([b"second\n"])
    watching.join(DEADLINE)
    assert any(0 < count < 50 for count in seen), "nobody else had a turn while the walk went on"
    turn_until(lambda: all(peer.read() == b"first\nsecond\n" for peer in peers))


def test_large_frames_are_handed_out_to_fewer_at_once(group, monkeypatch):
    peers = [Peer(group) for _ in range(60)]
    group.say([b"small\n"])
    turn_until(lambda: all(peer.read() for peer in peers))
    monkeypatch.setattr(flush, "SLICE", 0.0)
    begun = []
    group.say([b"x" * 100_000])
    while not begun or begun[-1] < 60:
        gevent.get_hub().wait(gevent.get_hub().loop.timer(0))
        begun.append(sum(len(peer.read()) > 6 for peer in peers))
    assert next(filter(None, begun)) == 16
    assert all(count % 16 == 0 for count in begun[:-1])


def test_who_joins_during_a_walk_gets_what_follows_once(group, monkeypatch):
    monkeypatch.setattr(flush, "SLICE", 0.0)
    peers = [Peer(group) for _ in range(200)]
    group.say([b"before\n"])
    turn_until(lambda: peers[0].read())
    group.seal()
    late = Peer(group)
    group.say([b"after\n"])
    turn_until(lambda: all(peer.read() == b"before\nafter\n" for peer in peers))
    turn_until(lambda: late.read() == b"after\n")


def test_an_error_in_one_dispatch_is_counted_and_reaches_nobody_else(group, caplog):
    class Broken(Connection):
        """Stands for a fault of ours, which cannot be made to happen."""

        __slots__ = ()

        def send(self, data):
            raise RuntimeError("broken")

    peers = [Peer(group) for _ in range(10)]
    before = value(metrics.ERRORS)
    broken = peers[4].connection
    os.close(broken.fd)
    broken.__class__, broken.fd = Broken, -1
    group.say([b"one\n"])
    turn_until(lambda: all(peer.read() == b"one\n" for peer in peers if peer is not peers[4]))
    group.say([b"two\n"])
    turn_until(lambda: all(peer.read() == b"one\ntwo\n" for peer in peers if peer is not peers[4]))
    assert peers[4].closed == 1
    assert value(metrics.ERRORS) == before + 1
    assert "broken" in caplog.text
    assert group.hub.streams == 9


def counted(metric):
    FLUSHER.flush()
    return metric._counter._value.get()


def test_what_was_given_is_counted_once_whoever_took_it(group):
    """In step, apart, full, broken, and passed by as it is behind."""
    peers = [Peer(group) for _ in range(6)] + [Peer(group, buffer=4_096) for _ in range(3)]
    narrow = peers[6:]
    frames, size = counted(metrics.DELIVERIES), counted(metrics.STREAM_BYTES)

    def say(message):
        group.say([message])
        turn_until(lambda: not group.walking)

    say(b"one\n")
    peers[2].connection.fall_out()  # is looked at, as it would be over TLS
    for peer in narrow:
        while peer.connection.rest is None:
            say(b"x" * 5_000)
    peers[3].connection.close()
    said = group.tape.end.number
    say(b"two\n")
    peers[4].reset()
    say(b"three\n")
    here = [peer for peer in peers if peer not in peers[3:5]]
    for peer in here:
        turn_until(lambda: peer.read().endswith(b"three\n"))  # noqa: B023
    taken = sum(len(peer.read()) for peer in peers)
    assert counted(metrics.STREAM_BYTES) - size == taken
    # Seven have all; one was closed before the last two; one was offered the last, too, but is broken.
    assert counted(metrics.DELIVERIES) - frames == 7 * (said + 2) + said + (said + 2)


def test_a_hub_that_is_closed_gives_its_ring_back(broker):
    hub = Hub(broker)
    group = hub.group(Query())
    group.look()
    before = rings()
    peer = Peer(group)
    group.say([b"one\n"])
    turn_until(lambda: peer.read() == b"one\n")
    group.say([b"two\n"])
    turn_until(lambda: peer.read() == b"one\ntwo\n")
    assert rings() > before or isinstance(hub.flush._sender, Writes)
    hub.close()
    del group
    assert isinstance(hub.flush._sender, Writes)
    assert rings() == before
    assert metrics.RINGS._value.get() == 0


def rings():
    found = 0
    for path in Path("/proc/self/fd").glob("*"):
        with contextlib.suppress(OSError):
            found += os.readlink(path) == "anon_inode:[io_uring]"
    return found


@pytest.mark.parametrize("group", [True], ids=["ring"], indirect=True)
def test_a_ring_that_fails_in_a_walk_costs_nobody_a_frame(group):
    peers = [Peer(group) for _ in range(10)]
    group.say([b"one\n"])
    turn_until(lambda: all(peer.read() == b"one\n" for peer in peers))
    sender = group.hub.flush._sender
    if not isinstance(sender, Ring):
        pytest.skip("this kernel has no io_uring for us")
    call = sender._call
    sender._call = lambda number, fd, count, *rest: call(number, fd, 4, *rest)
    group.say([b"two\n"])
    turn_until(lambda: all(peer.read() == b"one\ntwo\n" for peer in peers))
    assert not isinstance(group.hub.flush._sender, Ring)
    group.say([b"three\n"])
    turn_until(lambda: all(peer.read() == b"one\ntwo\nthree\n" for peer in peers))
    assert group.tape.size == 0
    assert metrics.RINGS._value.get() == 0
    ring._kept.clear()


def test_a_slow_reader_gets_every_byte_and_holds_what_all_share(group):
    quick, slow = Peer(group), Peer(group, buffer=4_096)
    said = b""
    for number in range(200):
        message = b"data: %05d%b\n\n" % (number, b"x" * 1_000)
        said += message
        group.say([message])
        turn_until(lambda: quick.read() == said)  # noqa: B023
    assert slow.connection in group.slow
    assert 0 < group.held <= len(said) + 4_096
    turn_until(lambda: slow.read(1_000) == said)
    turn_until(lambda: not group.slow)
    group.say([b"more\n"])
    turn_until(lambda: slow.read() == said + b"more\n" == quick.read())
    assert group.held == 0


def test_one_byte_at_a_time(group):
    peer = Peer(group, buffer=4_096)
    said = b"".join(b"data: %d\n\n" % number for number in range(3_000))
    group.say([said])
    turn_until(lambda: [peer.read(1) for _ in range(500)][-1] == said)


def test_a_backlog_beyond_its_bound_is_dropped(group, monkeypatch):
    monkeypatch.setattr(tape_module, "BACKLOG_BYTES", 50_000)
    quick, slow = Peer(group), Peer(group, buffer=4_096)
    dropped = value(metrics.DROPPED)
    for number in range(300):
        group.say([b"data: %05d%b\n\n" % (number, b"x" * 1_000)])
        turn_until(lambda: quick.read().count(b"data") == number + 1)  # noqa: B023
    assert group.tape.size <= 50_000
    turn_until(lambda: slow.read() and value(metrics.DROPPED) == dropped + 1)


@pytest.mark.parametrize("how", ["close", "half", "reset", "flood"])
def test_who_goes_away_is_let_go_at_once(group, how):
    peer, other = Peer(group), Peer(group)
    if how == "close":
        peer.theirs.close()
    elif how == "half":
        peer.theirs.shutdown(socket.SHUT_WR)
    elif how == "reset":
        peer.reset()
    else:
        sent = 0
        while not peer.closed and sent < 4 * READ_AT_MOST:
            with contextlib.suppress(OSError):
                sent += peer.theirs.send(b"GET / HTTP/1.1\r\n" * 64)
            gevent.sleep(0)
    turn_until(lambda: peer.closed)
    group.say([b"on\n"])
    turn_until(lambda: other.read() == b"on\n")
    assert peer.closed == 1
    assert group.hub.streams == 1


def test_connections_that_come_and_go_leave_nothing(group):
    staying = Peer(group)
    for _ in range(500):
        peer = Peer(group)
        peer.theirs.close()
        peer.connection.close()
    assert len(group.members) < 200
    group.say([b"still\n"])
    turn_until(lambda: staying.read() == b"still\n")


def test_the_end_of_a_stream_follows_what_was_begun(group):
    slow = Peer(group, buffer=4_096)
    group.say([b"x" * 100_000])
    turn_until(lambda: slow.connection.rest is not None)
    group.hub.finish(slow.connection, "bye")
    assert not slow.closed
    turn_until(lambda: slow.read().count(b"x") == 100_000 and b": bye\n\n" in slow.got)
    turn_until(lambda: slow.closed)
    assert slow.got.startswith(b"x" * 100_000 + b"retry: ")


def test_an_iterated_stream_says_the_same(group):
    iterated, peer = IteratedConnection(group), Peer(group)
    group.hub.enter(iterated)
    iterated.at = group.tape.end
    pieces = []
    reading = gevent.spawn(lambda: pieces.extend(iterated))
    for number in range(20):
        group.say([b"data: %d\n\n" % number])
        gevent.sleep(0)
    turn_until(lambda: b"".join(pieces) == peer.read() != b"" and len(peer.got.split()) == 40)
    group.hub.finish(iterated, "bye")
    reading.join(DEADLINE)
    assert reading.successful()
    assert b": bye" in pieces[-1]
    assert iterated.closed


def test_tls_takes_the_same_way_and_an_unfinished_write_its_own_bytes(group):
    pair = socket.socketpair()
    for end in pair:
        Peer.opened.append(end)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        end.setblocking(False)
    ours, theirs = tls_pair(*pair)
    closed = []
    connection = SecureConnection(ours, group, lambda: closed.append(1))
    group.hub.enter(connection)
    connection.listen()
    connection.at = group.tape.end
    said, got = b"", b""

    def read():
        nonlocal got
        with contextlib.suppress(ssl.SSLWantReadError):
            got += theirs.recv(1_000)
        return got

    for number in range(50):
        said += (message := b"data: %03d%b\n\n" % (number, b"x" * 3_000))
        group.say([message])
        gevent.sleep(0)
    turn_until(lambda: connection.rest is not None)
    turn_until(lambda: read() == said)
    theirs.close()
    turn_until(lambda: closed == [1])


def test_a_message_behind_the_rest_of_another_follows_it(group):
    """A heartbeat may come between two pieces of a replay, and find the socket full."""
    peer = Peer(group, buffer=4_096)
    assert not peer.connection.push(b"a" * 1_000_000)
    assert not peer.connection.push(b"b" * 10)
    turn_until(lambda: len(peer.read()) == 1_000_010)
    assert peer.got == b"a" * 1_000_000 + b"b" * 10


@pytest.mark.skipif(sys.platform != "linux", reason="packets are dropped as Linux can")
def test_a_peer_that_is_cut_off_is_noticed(group, monkeypatch):
    """No end and no reset comes from it, nor a word that it received anything: a cable was pulled."""
    monkeypatch.setattr(streams, "WRITE_DEADLINE", 1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    ours.setblocking(False)
    let_go = []
    streams._prepare(ours)
    connection = Connection(ours.detach(), group, lambda: let_go.append(1))
    group.hub.enter(connection)
    connection.listen()
    connection.at = group.tape.end
    drop_all = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))  # BPF: return 0 bytes of every packet
    theirs.setsockopt(socket.SOL_SOCKET, 26, struct.pack("@HP", 1, ctypes.addressof(drop_all)))  # SO_ATTACH_FILTER
    group.say([b"data: 1\n\n"])
    turn_until(lambda: let_go)
    theirs.close()


def test_a_listing_that_fails_ends_its_streams(group, monkeypatch):
    """They come back; a list that stands still would be taken for the truth."""
    monkeypatch.setattr(listing, "REFRESH", 0.01)
    looks = iter([(1, b"data: 1\n\n")])
    found = group.hub.listing("numbers", lambda known: next(looks))
    peer = Peer(found)
    found.refresh()
    turn_until(lambda: b"retry: " in peer.read())
    assert peer.closed == 1


def test_redis_being_away_is_said_once(prefix, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(follower, "_PAUSE", 0.0)
    hub = Hub(Broker(f"unix://{tmp_path}/nothing.sock", prefix))
    partition = hub.follower(7)
    for _ in range(3):
        partition._step()
    assert caplog.text.count("partition 7") == 1
