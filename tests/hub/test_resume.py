"""Logs may join, start over or fail while a stream resumes: no event is left out, and none comes twice."""

import json
from itertools import count

import pytest
from gevent.event import Event as Done
from gevent.lock import Semaphore

from pushsvc.broker.broker import READ_BYTES, SEEKS, StatisticsWrite
from pushsvc.broker.keys import Log
from pushsvc.broker.log import FrameKind
from pushsvc.cursor import Position, decode
from pushsvc.errors import BrokerUnavailable
from pushsvc.event import Event
from pushsvc.event.conditions import EventFilter
from pushsvc.hub.query import Query
from pushsvc.settings import TopicSettings
from pushsvc.sse import Decoder
from pushsvc.topic import partition_of
from support.hubs import captured, count_as_listed
from support.resuming import summary
from support.waiting import DEADLINE, turn_until

SETTINGS = TopicSettings()
KNOWN = "near.1"
BESIDE, ELSEWHERE = (
    next(name for n in count(2) if (partition_of(name := f"near.{n}") == partition_of(KNOWN)) is same)
    for same in (True, False)
)
"""Topics of the same partition and of another one."""

HERE, THERE = partition_of(KNOWN), partition_of(ELSEWHERE)


class Windowless(TopicSettings):
    """No window needs an entry, so every entry beyond the retention is trimmed."""

    longest_window = -100_000


def parsed(messages):
    return list(Decoder().feed(b"".join(messages)))


def publish(broker, topic, number=1, settings=SETTINGS):
    for _ in range(number):
        broker.publish(topic, [Event(data={"n": 1})], settings)


def wake(group):
    for follower in group.followers.values():
        follower.wake()


def restart(broker, *partitions):
    """Make partitions look as after a restart of Redis."""
    broker.connections.commands([("HSET", broker.keys.partition(p), "run", "0" * 40) for p in partitions])


def settle(group):
    wake(group)
    if not group.logs:
        group.on_read(())
    assert group.settled.wait(DEADLINE)


def joined(hub, *topics, query=None):
    """Return a group that has followed topics from their start."""
    group = hub.group(query or Query(events=("near.*",)))
    count_as_listed(hub)
    group.extend(topics, from_start=True)
    settle(group)
    return group


def here(group, sequence):
    return {HERE: Position(group.followers[HERE].position.epoch, sequence)}


def meanwhile(broker, monkeypatch, name, happens):
    """Let something happen once, just before a method of the broker runs."""
    original, todo = getattr(broker, name), [happens]

    def ask(*args, **options):
        while todo:
            todo.pop()()
        return original(*args, **options)

    monkeypatch.setattr(broker, name, ask)


@pytest.mark.parametrize("new", [BESIDE, ELSEWHERE])
def test_topic_may_be_created_while_positions_are_looked_up(hub, broker, subscribe, monkeypatch, new):
    publish(broker, KNOWN, 3)
    group = joined(hub, KNOWN)

    def create():
        publish(broker, new)
        group.extend([new], from_start=True)
        settle(group)

    meanwhile(broker, monkeypatch, "seek_sequences", create)
    subscriber = subscribe(group, here(group, 1))
    assert sorted(subscriber.received(3)) == sorted([(KNOWN, 2), (KNOWN, 3), (new, 1)])


def test_redis_may_restart_while_positions_are_looked_up(hub, broker, subscribe, monkeypatch):
    publish(broker, KNOWN, 3)
    group = joined(hub, KNOWN)
    follower = group.followers[HERE]

    def restart_here():
        before = follower.epoch
        restart(broker, HERE)
        follower.wake()
        turn_until(lambda: follower.epoch != before and group.settled.is_set())

    meanwhile(broker, monkeypatch, "seek_sequences", restart_here)
    subscriber = subscribe(group, here(group, 1))
    assert subscriber.received(4) == [("reset", KNOWN, "broker-restarted"), (KNOWN, 1), (KNOWN, 2), (KNOWN, 3)]


def test_client_of_another_worker_may_know_topics_that_this_one_does_not(hub, broker, subscribe):
    publish(broker, KNOWN)
    group = joined(hub, KNOWN)
    publish(broker, ELSEWHERE)
    epoch = broker.read(THERE, {}).epoch
    subscriber = subscribe(group, {**here(group, 1), THERE: Position(epoch, 1)})
    turn_until(lambda: subscriber.connection.at is not None)
    publish(broker, ELSEWHERE)
    wake(group)
    assert subscriber.received(1) == [(ELSEWHERE, 2)]


def test_client_gets_a_reset_of_its_pattern_for_topics_that_redis_lost(hub, broker, subscribe):
    """The names of the topics are lost. The client's pattern, which covered them, is known."""
    publish(broker, KNOWN)
    group = joined(hub, KNOWN)
    subscriber = subscribe(group, {**here(group, 1), THERE: Position(12345, 7)})
    assert subscriber.received(1) == [("reset", "near.*", "broker-restarted")]
    publish(broker, ELSEWHERE)
    group.extend([ELSEWHERE], from_start=True)
    assert subscriber.received(2)[1:] == [(ELSEWHERE, 1)]


def test_start_of_a_topic_created_later_may_be_trimmed(hub, broker, subscribe):
    publish(broker, KNOWN)
    publish(broker, ELSEWHERE, 3, Windowless(retention=2))
    group = joined(hub, KNOWN, ELSEWHERE)
    subscriber = subscribe(group, here(group, 1))
    assert subscriber.received(3) == [("reset", ELSEWHERE, "trimmed"), (ELSEWHERE, 2), (ELSEWHERE, 3)]


def test_reset_of_one_topic_does_not_repeat_events_of_another(hub, broker, subscribe):
    """Every message after the reset has a cursor that is not behind the client's first one."""
    for topic in (KNOWN, BESIDE, ELSEWHERE):
        publish(broker, topic)
    group = joined(hub, KNOWN, BESIDE, ELSEWHERE)
    positions = decode(group.cursor())
    for topic in (KNOWN, ELSEWHERE):
        publish(broker, topic, 2, Windowless(retention=1))
    settle(group)
    turn_until(lambda: decode(group.cursor()) != positions)
    subscriber = subscribe(group, positions)
    received = subscriber.received(4)
    assert sorted(received) == sorted(
        [(KNOWN, 3), (ELSEWHERE, 3), ("reset", KNOWN, "trimmed"), ("reset", ELSEWHERE, "trimmed")]
    )
    for message in subscriber.messages[2:]:
        reached = decode(message.id)
        assert all(reached[partition].sequence >= positions[partition].sequence for partition in (HERE, THERE))


@pytest.fixture
def write(broker):
    """Write frames of a window, as its aggregator does."""
    fence = broker.lease([HERE], "me", 60_000)[HERE]

    def write(*kinds):
        frame = {"topic": KNOWN, "window": "1m", "offset": 1, "columns": ["key", "field", "count"], "data": []}
        data = json.dumps(frame).encode()
        broker.append_statistics([StatisticsWrite(Log(KNOWN, "1m"), FrameKind(kind), 1, data) for kind in kinds], fence)

    return write


BOTH = Query(events=("near.*",), statistics=("near.*",), windows=("1m",))


def test_trimmed_statistics_cause_no_reset_of_events(hub, broker, subscribe, write):
    publish(broker, KNOWN)
    write("s")
    group = joined(hub, KNOWN, query=BOTH)
    positions = decode(group.cursor())
    write(*"susus")
    publish(broker, KNOWN)
    wake(group)
    turn_until(lambda: group.tail(Log(KNOWN)).after == 2)
    assert group.tail(Log(KNOWN, "1m")).trimmed > positions[HERE].sequence
    assert [message[:2] for message in subscribe(group, positions).received(2)] == [(KNOWN, 1), (KNOWN, 2)]


def test_cursor_names_a_new_partition_only_after_its_statistics(hub, broker, write):
    """A client that was cut after the first event would get only the changes since, and not the statistics."""
    group = joined(hub, query=BOTH)
    sent = captured(group)
    publish(broker, KNOWN)
    write("s")
    group.extend([KNOWN], from_start=True)
    settle(group)
    messages = parsed(sent)
    assert [message.event for message in messages] == ["snapshot", "message"]
    assert [HERE in decode(message.id) for message in messages if message.id] == [True]


# What is not asked


def count_calls(broker, monkeypatch):
    """Return a list that gets the number of calls in each round trip from now on."""
    calls, sent = broker.connections.calls, []
    monkeypatch.setattr(broker.connections, "calls", lambda group: sent.append(len(group)) or calls(group))
    return sent


def test_client_that_has_everything_of_its_topics_asks_redis_nothing(hub, broker, subscribe, monkeypatch):
    """Its position is that of its own last event: other topics of the partition went on."""
    publish(broker, KNOWN, 3)
    publish(broker, BESIDE, 2)
    group = hub.group(Query(events=(KNOWN,)))
    settle(group)
    sent = count_calls(broker, monkeypatch)
    subscriber = subscribe(group, here(group, 3))
    turn_until(lambda: subscriber.connection.at is not None)
    assert not sent
    publish(broker, KNOWN)
    wake(group)
    assert subscriber.received(1) == [(KNOWN, 4)]
    later = subscribe(group, here(group, 3))
    assert later.received(1) == [(KNOWN, 4)]


def test_client_that_has_everything_before_a_deletion_learns_of_it(hub, broker, subscribe):
    publish(broker, KNOWN, 3)
    broker.delete(KNOWN)
    publish(broker, KNOWN)
    group = hub.group(Query(events=(KNOWN,)))
    settle(group)
    assert subscribe(group, here(group, 3)).received(2) == [("reset", KNOWN, "deleted"), (KNOWN, 4)]


def test_positions_in_many_topics_share_round_trips(hub, broker, subscribe, monkeypatch):
    topics = [f"near.{number}" for number in range(300)]
    for topic in topics:
        publish(broker, topic)
    positions = {partition: Position(broker.read(partition, {}).epoch, 1) for partition in map(partition_of, topics)}
    for topic in topics:
        publish(broker, topic)
    group = joined(hub, *topics)
    sent = count_calls(broker, monkeypatch)
    found = subscribe(group, positions).received(2 * len(topics) - len(positions))
    assert sorted(found) == sorted(set(found))
    assert max(sent) == SEEKS
    assert len(sent) <= 2 + 2 * len(positions), "two round trips for the searches, and reads of each partition"


def test_lost_positions_in_many_topics_share_a_round_trip(hub, broker, subscribe, monkeypatch):
    topics = [f"near.{number}" for number in range(300)]
    for topic in topics:
        publish(broker, topic)
    group = joined(hub, *topics)
    partitions = set(map(partition_of, topics))
    sent = count_calls(broker, monkeypatch)
    subscriber = subscribe(group, {partition: Position(12345, 1) for partition in partitions})
    found = subscriber.received(2 * len(topics))
    assert len(set(found)) == len(found)
    assert len(sent) <= 1 + 3 * len(partitions), "epochs and events of each partition, and the ends of all logs at once"


# Partitions that are not read yet


def fail_to_read(broker, monkeypatch, partition, when=lambda: True):
    original = broker.reads

    def reads(requests):
        away = [request.partition == partition and when() for request in requests]
        found = original(requests)
        return [BrokerUnavailable("away") if failed else one for failed, one in zip(away, found, strict=True)]

    monkeypatch.setattr(broker, "reads", reads)


def test_partition_has_a_position_while_another_is_not_read(hub, broker, monkeypatch):
    group = joined(hub)
    sent = captured(group)
    publish(broker, KNOWN)
    fail_to_read(broker, monkeypatch, THERE)
    group.extend([KNOWN, ELSEWHERE], from_start=True)
    wake(group)
    turn_until(lambda: sent)
    assert not group.settled.is_set()
    assert decode(group.cursor()).keys() == {HERE}


def test_every_restart_is_reported_while_another_partition_is_not_read(hub, broker, monkeypatch):
    publish(broker, KNOWN)
    publish(broker, ELSEWHERE)
    group = joined(hub, KNOWN, ELSEWHERE)
    sent = captured(group)
    other = group.followers[THERE]
    fail_to_read(broker, monkeypatch, THERE, lambda before=other.epoch: other.epoch != before)
    expected = [("reset", ELSEWHERE, "broker-restarted")]
    for partition in (THERE, HERE, HERE):
        restart(broker, partition)
        wake(group)
        if partition == HERE:
            expected.extend([("reset", KNOWN, "broker-restarted"), (KNOWN, 1)])
        turn_until(lambda: list(map(summary, parsed(sent))) == expected)


# Logs that are longer than one read


@pytest.fixture
def reads(broker, monkeypatch):
    """Let each read of a follower bring one entry of each log; return a semaphore of the reads it may do."""
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
        turn_until(lambda: reads.counter == 0)


def test_new_subscriber_starts_after_the_backlog(hub, broker, reads, subscribe):
    """A group wants new events alone, and shares a log that is being read from its start. It settles once all of the
    log was read. Else a client that resumes would get the events read so far, and then only new ones."""
    publish(broker, KNOWN, 5)
    listed, created = (hub.group(Query(events=("near.*",), named=named)) for named in (True, False))
    count_as_listed(hub)
    created.extend([KNOWN], from_start=True)
    listed.extend([KNOWN])
    allow(reads, 2)
    assert listed.tail(Log(KNOWN)).after in range(1, 5)
    assert not listed.settled.is_set()
    allow(reads, MANY)
    assert listed.settled.wait(DEADLINE)
    assert subscribe(listed, here(listed, 2)).received(3) == [(KNOWN, 3), (KNOWN, 4), (KNOWN, 5)]


def test_position_of_a_group_is_not_ahead_of_a_log_that_joined(hub, broker, reads):
    """Another group that follows the same log may be further ahead."""
    publish(broker, KNOWN, 5)
    first, later = (hub.group(Query(events=("near.*",), named=named)) for named in (True, False))
    first.extend([KNOWN])
    allow(reads, 2)
    assert first.settled.is_set()
    later.extend([KNOWN], from_start=True)
    first.followers[HERE].wake()
    allow(reads, 2)
    assert 0 < decode(later.cursor())[HERE].sequence < 5
    assert decode(first.cursor())[HERE].sequence == 5
    allow(reads, MANY)
    assert later.settled.wait(DEADLINE)
    assert decode(later.cursor())[HERE].sequence == 5


# Topics that are listed


def test_topic_created_during_a_listing_is_in_the_list(hub, broker, monkeypatch):
    """The follower of its partition reports a new topic once, to the groups that had the list before. The group that
    waits for the list would miss it if only the first listing counted."""
    publish(broker, KNOWN)
    group = hub.group(Query(events=("near.*",)))
    confirmed = Done()
    confirmed.set()
    monkeypatch.setattr(hub.feed.live, "subscribe", lambda channel: confirmed)
    original, listings = hub.feed.topics.read, []

    def read(*args):
        found = original(*args)
        listings.append({name for partition in found for name in partition.names})
        if len(listings) == 1:
            publish(broker, BESIDE)
            hub.feed.directory.refresh([HERE])
        return found

    monkeypatch.setattr(hub.feed.topics, "read", read)
    hub.feed.directory.wait_listed()
    assert listings[0] == {KNOWN}
    assert {log.topic for log in group.logs} == {KNOWN, BESIDE}


def test_long_search_for_selected_events_tells_how_far_it_has_come(hub, broker, subscribe, monkeypatch):
    """A client's filter selects nothing of what it missed. If it leaves, it shall not read all of this again."""
    query = Query(events=(KNOWN,), filter=EventFilter.of(None, frozenset(["nobody"]), ()))
    publish(broker, KNOWN, 10)
    group = hub.group(query)
    settle(group)
    original = broker.read

    def read(partition, logs, **options):
        hub.clock.tick += 5
        return original(partition, logs, **{**options, "budget": 1})

    monkeypatch.setattr(broker, "read", read)
    subscriber = subscribe(group, here(group, 1))
    turn_until(lambda: subscriber.receive() >= 9)
    assert {message.event for message in subscriber.messages} == {"heartbeat"}
    assert [decode(message.id)[HERE].sequence for message in subscriber.messages] == list(range(2, 11))
