"""A channel is made of a writer, a clock, a recovery and two callbacks. It needs no hub and no broker."""

from pushsvc.hub.delivery.channel import Channel
from pushsvc.hub.delivery.chunked import frame
from pushsvc.hub.delivery.wheel import Clock
from pushsvc.hub.limits import FanoutLimits
from support.channels import StubRecovery
from support.peer import Peer
from support.waiting import turn_until


class HeldWriter:
    """Takes schedules and sends nothing."""

    limits = FanoutLimits()

    def __init__(self):
        self.scheduled = []

    def schedule(self, channel, size):
        self.scheduled.append((channel, size))


def test_broadcast_schedules_the_new_bytes():
    writer = HeldWriter()
    channel = Channel(writer, Clock(), StubRecovery(), lambda: None, lambda _: None)
    channel.broadcast([b"one", b"two"])
    channel.broadcast([])
    assert writer.scheduled == [(channel, 6)]
    assert channel.seal().data == b"6\r\nonetwo\r\n"
    assert channel.seal().count == 2, "nothing new: the same chunk"


def test_chunk_has_the_cursor_of_its_last_message(site):
    site.recovery.position = "cursor"
    site.channel.broadcast([b"one"])
    assert site.channel.seal().cursor == "cursor"


def test_source_of_a_connection_resumes_it_when_its_socket_has_room(channel):
    peer = Peer(channel, buffer=4_096)

    class Source:
        resumed = 0

        def resume(self, connection):
            assert connection is peer.connection
            self.resumed += 1

    source = peer.connection.source = Source()
    assert not peer.connection.push(b"x" * 1_000_000)
    turn_until(lambda: len(peer.read()) == 1_000_000)
    turn_until(lambda: source.resumed == 1)


def test_started_connection_gets_its_first_bytes_and_then_the_messages_after_a_chunk(channel):
    start = channel.seal()
    channel.broadcast([b"two\n"])
    channel.seal()
    peer = Peer(channel)
    channel.start(peer.connection, start, frame(b"one\n"))
    turn_until(lambda: peer.read() == b"one\ntwo\n")
    assert not channel.slow


def test_connection_that_is_far_behind_recovers_instead(site):
    site.recovery.is_far = lambda chunk: site.channel.backlog.end.number - chunk.number > 1
    peer = Peer(site.channel)
    peer.connection.at = site.channel.seal()
    for message in (b"one\n", b"two\n"):
        site.channel.broadcast([message])
        site.channel.seal()
    site.channel.resume(peer.connection)
    assert site.recovery.recovered == [peer.connection]
    assert peer.read() == b""


def test_heartbeat_is_a_comment_unless_the_position_may_have_moved(site):
    site.recovery.position = "cursor"
    connection = Peer(site.channel).connection
    assert site.channel.heartbeat(connection) == b"c\r\n: heartbeat\n\r\n"
    site.recovery.moves_silently = True
    site.clock.tick += 1
    _, heartbeat, end = site.channel.heartbeat(connection).split(b"\r\n")
    assert heartbeat.startswith(b'id: cursor\nevent: heartbeat\ndata: {"at":')
    assert heartbeat.endswith(b"}\n\n")
    assert not end


def test_heartbeat_has_an_id_only_for_a_connection_with_a_position(site):
    channel = site.channel
    site.recovery.position = "cursor"
    site.recovery.moves_silently = True
    old, new = Peer(channel).connection, Peer(channel).connection
    new.joined_after = channel.backlog.end.number
    assert b"id: cursor" in channel.heartbeat(old)
    assert b"id:" not in channel.heartbeat(new)
    channel.broadcast([b"one\n"])
    assert channel.heartbeat(old) == b"", "a message is on its way"
    old.at = None
    assert b"id:" not in channel.heartbeat(old)


def test_failed_channel_calls_its_owner_in_a_greenlet_of_its_own(site):
    peer = Peer(site.channel)
    site.channel.fail()
    assert site.failed == 0
    turn_until(lambda: peer.read() == b"failed\n")
    assert site.failed == 1


def test_channel_is_idle_since_its_last_connection_left(site):
    first, second = Peer(site.channel), Peer(site.channel)
    site.clock.tick = 3
    first.connection.close()
    assert not site.channel.roster.is_empty
    site.clock.tick = 5
    second.connection.close()
    assert site.channel.roster.is_empty
    assert site.channel.idle_since == 5
    assert site.left == 2
