"""Deleted and expired topics: what Redis remembers of them, and for how long."""

from dataclasses import replace

import pytest

from pushsvc.broker.broker import Broker, StatisticsWrite
from pushsvc.broker.keys import Log
from pushsvc.broker.limits import BrokerLimits
from pushsvc.broker.log import FROM_SNAPSHOT, NO_ENTRIES, FrameKind
from pushsvc.errors import Fenced, StartupError, TooManyTopics
from pushsvc.event import Event
from pushsvc.settings import TopicRules, TopicSettings
from pushsvc.worker.retention import Sweeper
from support.metrics import metric
from support.waiting import until

PARTITION = 5
SETTINGS = TopicSettings()
SHORT = replace(SETTINGS, expire_after=1)
NAMES = [name for name in (f"user.{number}" for number in range(60_000)) if Log(name).partition == PARTITION]
NAME = NAMES[0]
LOG, WINDOW = Log(NAME), Log(NAME, "1m")
EVENT = [Event(data={"n": 1})]


@pytest.fixture
def fence(broker):
    return broker.lease([PARTITION], "me", 3_600_000)[PARTITION]


def write_frames(broker, fence, count, kind=FrameKind.SNAPSHOT):
    return broker.append_statistics([StatisticsWrite(WINDOW, kind, 1, b"{}")] * count, fence)


def keys_of(broker):
    pattern = broker.keys.partition(PARTITION).removesuffix("partition")
    found, cursor = set(), None
    while cursor != b"0":
        cursor, keys = broker.connections.command("SCAN", cursor or b"0", "MATCH", f"{pattern}*", "COUNT", 1_000)
        found |= {key.decode().removeprefix(pattern) for key in keys}
    return found


def remembered(broker):
    return broker.connections.command("HLEN", broker.keys.remains(PARTITION))


def state(broker, log, after):
    found = broker.read(PARTITION, {log: after}).logs[log]
    return found.after, found.last, found.trimmed, found.deleted, found.created > 0, len(found.entries)


def test_a_loop_of_creating_and_deleting_leaves_no_keys(broker, fence):
    for name in NAMES[:50]:
        broker.publish(name, EVENT, SETTINGS)
        assert broker.delete(name)
    broker.publish(NAME, EVENT, SETTINGS)
    write_frames(broker, fence, 2)
    broker.delete(NAME)
    assert keys_of(broker) == {"partition", "lease", "changed", "remains"}
    assert remembered(broker) == 50


def test_readers_of_a_deleted_topic_see_the_deletion_of_its_logs(broker, fence):
    broker.publish(NAME, EVENT * 3, SETTINGS)
    write_frames(broker, fence, 2)
    before = broker.read(PARTITION, {}).sequence
    broker.delete(NAME)
    ended = before + 1
    for after in (0, 2, 3):
        assert state(broker, LOG, after) == (after, 3, ended, ended, False, 0)
    assert state(broker, LOG, NO_ENTRIES) == (3, 3, ended, ended, False, 0)
    assert state(broker, WINDOW, FROM_SNAPSHOT) == (2, 2, ended, ended, False, 0)
    assert broker.seek_sequence(NAME, 2) == 3
    assert broker.metadata([LOG, WINDOW]) == [{}, {}]


def test_offsets_and_frame_numbers_continue_when_a_topic_is_created_again(broker, fence):
    for life in range(3):
        assert broker.publish(NAME, EVENT * 2, SETTINGS).first_offset == 1 + 2 * life
        write_frames(broker, fence, 3)
        found = broker.read(PARTITION, {WINDOW: FROM_SNAPSHOT}).logs[WINDOW]
        assert [entry.last for entry in found.entries] == [3 + 3 * life]
        broker.delete(NAME)
    broker.publish(NAME, EVENT, SETTINGS)
    ended = broker.read(PARTITION, {}).sequence - 1
    assert state(broker, LOG, 0) == (0, 7, ended, ended, True, 1)
    assert state(broker, WINDOW, FROM_SNAPSHOT) == (9, 9, ended, ended, False, 0), "it has no frame yet"
    broker.delete(NAME)
    broker.publish(NAME, EVENT, SETTINGS)
    write_frames(broker, fence, 1)
    ended += 2
    assert state(broker, WINDOW, FROM_SNAPSHOT) == (9, 10, ended, ended, False, 1)


def test_offsets_continue_after_a_deletion_by_an_earlier_version(broker):
    metadata = broker.keys.metadata(LOG)
    tombstone = ("last", 4, "first", 5, "trimmed", 9, "deleted", 9, "sequence", 9)
    broker.connections.commands([("HSET", metadata, *tombstone), ("PEXPIRE", metadata, 60_000)])
    assert state(broker, LOG, 0) == (0, 4, 9, 9, False, 0)
    assert broker.publish(NAME, EVENT, SETTINGS).first_offset == 5
    assert broker.connections.command("PTTL", metadata) == -1


def test_beyond_the_bound_old_ended_topics_are_forgotten_before_new_ones(redis_url, prefix, fence):
    few = Broker(redis_url, prefix, topics=40)
    for name in NAMES[:100]:
        few.publish(name, EVENT, SETTINGS)
        few.delete(name)
    assert remembered(few) == 40
    assert few.publish(NAMES[99], EVENT, SETTINGS).first_offset == 2
    assert few.publish(NAMES[0], EVENT, SETTINGS).first_offset == 1
    few.delete(NAMES[99])
    ended = few.forget_ended(PARTITION, fence, b"0")
    assert (ended.remembered, ended.forgotten) == (40, 60)
    assert len(few.changed(PARTITION, 0).sequences) == 41, "forgotten topics leave the changed logs too"
    few.close()


def test_a_lowered_bound_is_reached_in_several_calls(broker, redis_url, prefix, fence):
    for name in NAMES[:150]:
        broker.publish(name, EVENT, SETTINGS)
        broker.delete(name)
    few = Broker(redis_url, prefix, topics=10)
    assert few.forget_ended(PARTITION, fence, b"0").remembered == 50
    assert few.forget_ended(PARTITION, fence, b"0").remembered == 10
    few.close()


def test_ended_topics_are_forgotten_after_their_time(broker, redis_url, prefix, fence):
    for name in NAMES[:600]:
        broker.publish(name, EVENT, SETTINGS)
        broker.delete(name)
    write = broker.publish(NAMES[0], EVENT, SETTINGS)
    assert broker.forget_ended(PARTITION, fence, b"0").remembered == 600
    later = Broker(redis_url, prefix, limits=replace(BrokerLimits(), ended_age=0))
    cursor, steps = b"0", 0
    while steps == 0 or cursor != b"0":
        ended = later.forget_ended(PARTITION, fence, cursor)
        cursor, steps = ended.cursor, steps + 1
    assert (ended.remembered, ended.forgotten) == (0, 0)
    assert steps > 1
    assert list(broker.changed(PARTITION, 0).sequences) == [NAMES[0]], "the topic that was created again"
    assert broker.publish(NAMES[0], EVENT, SETTINGS).first_offset == write.last_offset + 1
    with pytest.raises(Fenced):
        later.forget_ended(PARTITION, fence - 1, b"0")
    later.close()


# Expiry


def idle(broker, fence, settings=SHORT):
    return broker.sweep({NAME: settings}, fence, 10)[NAME].idle


def test_a_topic_without_events_and_streams_expires(broker, fence):
    broker.publish(NAME, EVENT * 2, SHORT)
    write_frames(broker, fence, 1)
    assert not idle(broker, fence, SETTINGS), "topics never expire by default"
    assert not idle(broker, fence, replace(SETTINGS, expire_after=3_600_000))
    until(lambda: idle(broker, fence))
    assert not broker.expire(NAME, fence, 3_600_000)
    assert not broker.expire(NAME, fence - 1, 1), "another aggregator owns the partition"
    assert broker.expire(NAME, fence, 1)
    assert not broker.expire(NAME, fence, 1)
    assert broker.topics() == {}
    assert keys_of(broker) == {"partition", "lease", "changed", "remains"}
    assert broker.publish(NAME, EVENT, SHORT).first_offset == 3


def test_a_new_event_keeps_an_idle_topic(broker, fence):
    broker.publish(NAME, EVENT, SHORT)
    until(lambda: idle(broker, fence))
    broker.publish(NAME, EVENT, SHORT)
    assert not broker.expire(NAME, fence, 60_000)
    assert [len(found.entries) for found in broker.read(PARTITION, {LOG: 0}).logs.values()] == [2]


@pytest.mark.parametrize("followed", [LOG, WINDOW])
def test_a_topic_with_a_stream_does_not_expire(broker, fence, followed):
    broker.publish(NAME, EVENT, SHORT)
    write_frames(broker, fence, 1)
    until(lambda: idle(broker, fence))
    live = broker.live_connection(lambda *_: True, lambda _: None)
    try:
        live.start()
        confirmed = live.subscribe(broker.keys.log_channel(followed))
        assert confirmed.wait(10)
        assert not broker.expire(NAME, fence, 1)
        assert not idle(broker, fence, replace(SHORT, expire_after=80_000))
        assert not idle(broker, fence)
    finally:
        live.close()
    watched = int(broker.metadata([LOG])[0]["watched"])
    assert watched > 0
    assert not broker.expire(NAME, fence, 60_000), "the topic stays watched for a while after its stream closed"


def test_a_topic_that_expired_makes_room_for_another(redis_url, prefix, fence):
    few = Broker(redis_url, prefix, topics=1)
    few.publish(NAME, EVENT, SHORT)
    with pytest.raises(TooManyTopics):
        few.publish(NAMES[1], EVENT, SHORT)
    until(lambda: few.expire(NAME, fence, 1))
    few.publish(NAMES[1], EVENT, SHORT)
    few.close()


def test_the_sweeper_expires_idle_topics_and_reports_how_many_are_remembered(broker, fence):
    for name in NAMES[:45]:
        broker.publish(name, EVENT, SETTINGS)
    rules = TopicRules([(name, SHORT) for name in NAMES[:30]])
    before = metric("pushsvc_topics_expired_total")
    sweeper = Sweeper(broker, rules, lambda: {PARTITION: fence})
    live = broker.live_connection(lambda *_: True, lambda _: None)
    try:
        live.start()
        assert live.subscribe(broker.keys.log_channel(LOG)).wait(10)
        until(lambda: sweeper.round() or len(broker.topics()) == 16)
    finally:
        live.close()
    assert set(broker.topics()) == {NAME, *NAMES[30:45]}
    assert metric("pushsvc_topics_expired_total") == before + 29
    assert metric("pushsvc_topics_remembered") == 29
    assert metric("pushsvc_topics_forgotten") == 0
    Sweeper(broker, rules, lambda: {PARTITION: fence - 1}).round()


def test_a_later_layout_is_refused(broker):
    broker.check_layout()
    broker.check_layout()
    assert broker.connections.command("HGETALL", broker.keys.layout) == [b"partitions", b"64", b"version", b"2"]
    broker.connections.commands([("HSET", broker.keys.layout, "version", 4)])
    with pytest.raises(StartupError, match="layout 4 of a later version"):
        broker.check_layout()
