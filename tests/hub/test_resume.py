"""Whatever joins, begins anew or fails while a stream is resumed or told of: no event is left out, none comes twice."""

import json
import socket
from itertools import count

import gevent
import pytest
from gevent.event import Event as Done
from gevent.lock import Semaphore

from pushsvc.broker.broker import READ_BYTES, StatisticsWrite
from pushsvc.broker.keys import Log
from pushsvc.broker.log import FrameKind
from pushsvc.cursor import Position, decode
from pushsvc.errors import BrokerUnavailable
from pushsvc.event import Event
from pushsvc.hub.delivery.connection import Connection
from pushsvc.hub.hub import Hub
from pushsvc.hub.query import Query
from pushsvc.settings import TopicSettings
from pushsvc.sse import Decoder
from pushsvc.topic import partition_of

SETTINGS = TopicSettings()
KNOWN = "near.1"
BESIDE, ELSEWHERE = (
    next(name for n in count(2) if (partition_of(name := f"near.{n}") == partition_of(KNOWN)) is same)
    for same in (True, False)
)
"""Topics of the same partition and of another one."""

HERE, THERE = partition_of(KNOWN), partition_of(ELSEWHERE)


class Windowless(TopicSettings):
    """No window needs an entry any more as soon as it is there."""

    longest_window = -100_000


@pytest.fixture
def hub(broker):
    broker.check_layout()
    broker.open_partitions()
    hub = Hub(broker)
    yield hub
    hub.close()


@pytest.fixture
def subscribe(hub):
    """Subscribers by their group and the position that they resume from."""
    sockets = []

    def subscribe(group, have):
        ours, theirs = socket.socketpair()
        sockets.extend((ours, theirs))
        return Subscriber(group, ours, theirs, have)

    yield subscribe
    for end in sockets:
        end.close()


class Subscriber:
    def __init__(self, group, ours, theirs, have):
        for end in (ours, theirs):
            end.setblocking(False)
        self.messages = []
        self._theirs = theirs
        self._decoder = Decoder()
        self.connection = Connection(ours.detach(), group, lambda: None)
        group.hub.enter(self.connection)
        group.hub.replays.begin(group, self.connection, have)

    def told(self, number):
        """Return, in short, what it is told, once there is so much of it."""
        with gevent.Timeout(10):
            while len(self.messages) < number:
                assert not self.connection.closed
                try:
                    self.messages += self._decoder.feed(self._theirs.recv(65_536))
                except BlockingIOError:
                    gevent.sleep(0.001)
        return [short(message) for message in self.messages]


def short(message):
    data = json.loads(message.data)
    if "reason" in data:
        return message.event, data["topic"], data["reason"]
    return (data["topic"], data["offset"]) if "offset" in data else (data["$topic"], data["$offset"])


def parsed(said):
    return list(Decoder().feed(b"".join(said)))


def wait_for(look):
    with gevent.Timeout(10):
        while not look():
            gevent.sleep(0.001)


def publish(broker, topic, number=1, settings=SETTINGS):
    for _ in range(number):
        broker.publish(topic, [Event(data={"n": 1})], settings)


def wake(group):
    for follower in group.followers.values():
        follower.wake()


def begin_anew(broker, *partitions):
    """Let Redis be one that was restarted."""
    broker._connections.commands([("HSET", broker.keys.partition(p), "run", "0" * 40) for p in partitions])


def settle(group):
    wake(group)
    if not group.logs:
        group.look()
    assert group.settled.wait(10)


def joined(hub, *topics, query=None):
    """Return a group that has followed topics from their start."""
    group = hub.group(query or Query(events=("near.*",)))
    hub._directory._unlisted.clear()  # as if they had been listed
    group.extend(topics, born=True)
    settle(group)
    return group


def here(group, sequence):
    return {HERE: Position(group.followers[HERE].position.epoch, sequence)}


def meanwhile(broker, monkeypatch, name, happens):
    """Let something happen, once, before Redis is asked."""
    original, todo = getattr(broker, name), [happens]

    def ask(*args, **options):
        while todo:
            todo.pop()()
        return original(*args, **options)

    monkeypatch.setattr(broker, name, ask)


@pytest.mark.parametrize("born", [BESIDE, ELSEWHERE])
def test_a_topic_may_be_born_while_places_are_looked_for(hub, broker, subscribe, monkeypatch, born):
    publish(broker, KNOWN, 3)
    group = joined(hub, KNOWN)

    def be_born():
        publish(broker, born)
        group.extend([born], born=True)
        settle(group)

    meanwhile(broker, monkeypatch, "seek_sequence", be_born)
    subscriber = subscribe(group, here(group, 1))
    assert sorted(subscriber.told(3)) == sorted([(KNOWN, 2), (KNOWN, 3), (born, 1)])


def test_redis_may_be_restarted_while_places_are_looked_for(hub, broker, subscribe, monkeypatch):
    publish(broker, KNOWN, 3)
    group = joined(hub, KNOWN)
    follower = group.followers[HERE]

    def restart():
        before = follower.epoch
        begin_anew(broker, HERE)
        follower.wake()
        wait_for(lambda: follower.epoch != before and group.settled.is_set())

    meanwhile(broker, monkeypatch, "seek_sequence", restart)
    subscriber = subscribe(group, here(group, 1))
    assert subscriber.told(4) == [("reset", KNOWN, "broker-restarted"), (KNOWN, 1), (KNOWN, 2), (KNOWN, 3)]


def test_who_comes_from_elsewhere_may_know_of_topics_that_are_not_heard_of_yet(hub, broker, subscribe):
    publish(broker, KNOWN)
    group = joined(hub, KNOWN)
    publish(broker, ELSEWHERE)
    epoch = broker.read(THERE, {}).epoch
    subscriber = subscribe(group, {**here(group, 1), THERE: Position(epoch, 1)})
    wait_for(lambda: subscriber.connection.at is not None)
    publish(broker, ELSEWHERE)
    wake(group)
    assert subscriber.told(1) == [(ELSEWHERE, 2)]


def test_who_knows_topics_that_redis_has_lost_is_told(hub, broker, subscribe):
    """Nothing has their names any more, but the patterns that they were of."""
    publish(broker, KNOWN)
    group = joined(hub, KNOWN)
    subscriber = subscribe(group, {**here(group, 1), THERE: Position(12345, 7)})
    assert subscriber.told(1) == [("reset", "near.*", "broker-restarted")]
    publish(broker, ELSEWHERE)
    group.extend([ELSEWHERE], born=True)
    assert subscriber.told(2)[1:] == [(ELSEWHERE, 1)]


def test_the_start_of_a_topic_born_later_may_be_gone(hub, broker, subscribe):
    publish(broker, KNOWN)
    publish(broker, ELSEWHERE, 3, Windowless(retention=2))
    group = joined(hub, KNOWN, ELSEWHERE)
    subscriber = subscribe(group, here(group, 1))
    assert subscriber.told(3) == [("reset", ELSEWHERE, "trimmed"), (ELSEWHERE, 2), (ELSEWHERE, 3)]


def test_what_one_topic_lost_is_no_reason_to_tell_others_again(hub, broker, subscribe):
    """What came before the reset is told by the position, whatever is cut behind it."""
    for topic in (KNOWN, BESIDE, ELSEWHERE):
        publish(broker, topic)
    group = joined(hub, KNOWN, BESIDE, ELSEWHERE)
    have = decode(group.cursor())
    for topic in (KNOWN, ELSEWHERE):
        publish(broker, topic, 2, Windowless(retention=1))
    settle(group)
    wait_for(lambda: decode(group.cursor()) != have)
    subscriber = subscribe(group, have)
    told = subscriber.told(4)
    assert sorted(told) == sorted(
        [(KNOWN, 3), (ELSEWHERE, 3), ("reset", KNOWN, "trimmed"), ("reset", ELSEWHERE, "trimmed")]
    )
    for message in subscriber.messages[2:]:
        positions = decode(message.id)
        assert all(positions[partition].sequence >= have[partition].sequence for partition in (HERE, THERE))


@pytest.fixture
def write(broker):
    """Write frames of a topic's window, as its aggregator does."""
    fence = broker.lease([HERE], "me", 60_000)[HERE]

    def write(*kinds):
        frame = {"topic": KNOWN, "window": "1m", "offset": 1, "columns": ["key", "field", "count"], "data": []}
        data = json.dumps(frame).encode()
        broker.append_statistics([StatisticsWrite(Log(KNOWN, "1m"), FrameKind(kind), 1, data) for kind in kinds], fence)

    return write


BOTH = Query(events=("near.*",), statistics=("near.*",), windows=("1m",))


def test_statistics_that_were_trimmed_are_no_reset_of_events(hub, broker, subscribe, write):
    publish(broker, KNOWN)
    write("s")
    group = joined(hub, KNOWN, query=BOTH)
    have = decode(group.cursor())
    write(*"susus")
    publish(broker, KNOWN)
    wake(group)
    wait_for(lambda: group.tail(Log(KNOWN)).after == 2)
    assert group.tail(Log(KNOWN, "1m")).trimmed > have[HERE].sequence
    assert [message[:2] for message in subscribe(group, have).told(2)] == [(KNOWN, 1), (KNOWN, 2)]


def test_statistics_of_a_topic_are_told_before_a_position_says_so(hub, broker, write):
    """Who is cut behind the first of its events would be told only what changes from there on."""
    group, said = joined(hub, query=BOTH), []
    group.say = said.extend
    publish(broker, KNOWN)
    write("s")
    group.extend([KNOWN], born=True)
    settle(group)
    messages = parsed(said)
    assert [message.event for message in messages] == ["snapshot", "message"]
    assert [HERE in decode(message.id) for message in messages if message.id] == [True]


# A partition that is not read yet


def fail_to_read(broker, monkeypatch, partition, when=lambda: True):
    original = broker.read

    def read(asked, logs, **options):
        if asked == partition and when():
            raise BrokerUnavailable("away")
        return original(asked, logs, **options)

    monkeypatch.setattr(broker, "read", read)


def test_what_was_told_of_a_partition_has_a_position_while_another_is_not_read(hub, broker, monkeypatch):
    group, said = joined(hub), []
    group.say = said.extend
    publish(broker, KNOWN)
    fail_to_read(broker, monkeypatch, THERE)
    group.extend([KNOWN, ELSEWHERE], born=True)
    wake(group)
    wait_for(lambda: said)
    assert not group.settled.is_set()
    assert decode(group.cursor()).keys() == {HERE}


def test_every_restart_is_told_while_another_partition_is_not_read(hub, broker, monkeypatch):
    publish(broker, KNOWN)
    publish(broker, ELSEWHERE)
    group, said = joined(hub, KNOWN, ELSEWHERE), []
    group.say = said.extend
    other = group.followers[THERE]
    fail_to_read(broker, monkeypatch, THERE, lambda before=other.epoch: other.epoch != before)
    told = [("reset", ELSEWHERE, "broker-restarted")]
    for partition in (THERE, HERE, HERE):
        begin_anew(broker, partition)
        wake(group)
        if partition == HERE:
            told.extend([("reset", KNOWN, "broker-restarted"), (KNOWN, 1)])
        wait_for(lambda: list(map(short, parsed(said))) == told)


# Logs that are longer than one read


@pytest.fixture
def reads(broker, monkeypatch):
    """Let a follower's reads bring one entry of each log; return how many it may still do."""
    original, allowed = broker.read, Semaphore(0)

    def read(partition, logs, *, budget=READ_BYTES):
        if logs and budget == READ_BYTES:
            allowed.acquire()
            budget = 1
        return original(partition, logs, budget=budget)

    monkeypatch.setattr(broker, "read", read)
    return allowed


MANY = 1_000


def allow(reads, number):
    for _ in range(number):
        reads.release()
    if number < MANY:
        wait_for(lambda: reads.counter == 0)


def test_who_wants_nothing_of_before_begins_when_all_of_it_was_read(hub, broker, reads, subscribe):
    """Else who resumes would be told up to what was read, and then only what is new."""
    publish(broker, KNOWN, 5)
    listed, born = (hub.group(Query(events=("near.*",), named=named)) for named in (True, False))
    hub._directory._unlisted.clear()
    born.extend([KNOWN], born=True)
    listed.extend([KNOWN])
    allow(reads, 2)
    assert listed.tail(Log(KNOWN)).after in range(1, 5)
    assert not listed.settled.is_set()
    allow(reads, MANY)
    assert listed.settled.wait(10)
    assert subscribe(listed, here(listed, 2)).told(3) == [(KNOWN, 3), (KNOWN, 4), (KNOWN, 5)]


def test_a_position_is_not_ahead_of_what_was_told_of_a_log_that_joined(hub, broker, reads):
    """Though others have long been told all of it."""
    publish(broker, KNOWN, 5)
    first, later = (hub.group(Query(events=("near.*",), named=named)) for named in (True, False))
    first.extend([KNOWN])
    allow(reads, 2)
    assert first.settled.is_set()
    later.extend([KNOWN], born=True)
    first.followers[HERE].wake()
    allow(reads, 2)
    assert 0 < decode(later.cursor())[HERE].sequence < 5
    assert decode(first.cursor())[HERE].sequence == 5
    allow(reads, MANY)
    assert later.settled.wait(10)
    assert decode(later.cursor())[HERE].sequence == 5


# Topics that are listed


def test_a_birth_that_others_are_told_of_while_topics_are_listed(hub, broker, monkeypatch):
    """Who reads its partition says it once; a listing from before would leave it out for who is just being told."""
    publish(broker, KNOWN)
    group = hub.group(Query(events=("near.*",)))
    confirmed = Done()
    confirmed.set()
    monkeypatch.setattr(hub, "hear", lambda channel: confirmed)
    original, listings = broker.topics, []

    def topics(*args):
        found = original(*args)
        listings.append(set(found))
        if len(listings) == 1:
            publish(broker, BESIDE)
            hub.list_again(HERE)
        return found

    monkeypatch.setattr(broker, "topics", topics)
    hub._directory.wait()
    assert listings[0] == {KNOWN}
    assert group.topics == {KNOWN, BESIDE}
