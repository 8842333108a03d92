"""The scripts on a real server: offsets, sequences, ids, epochs, trimming, leases."""

from contextlib import closing
from dataclasses import replace

import pytest

from pushsvc.broker.broker import Broker, StatisticsWrite
from pushsvc.broker.keys import Log
from pushsvc.broker.limits import BrokerLimits
from pushsvc.broker.log import FROM_SNAPSHOT, NO_ENTRIES, FrameKind
from pushsvc.errors import BrokerFull, BrokerUnavailable, Fenced, InvalidBatch
from pushsvc.event import Event
from pushsvc.settings import TopicSettings, Window
from support.reference.logs import Windowless

CHUNK_EVENTS = BrokerLimits().chunk_events


LOG = Log("orders.eu")
SETTINGS = TopicSettings()


def events(*numbers, **attributes):
    return [Event(data={"n": number}, **attributes) for number in numbers]


def read(broker, after=0, log=LOG, **options):
    return broker.read(log.partition, {log: after}, **options)


def numbers(broker):
    return [event.data["n"] for entry in read(broker).logs[LOG].entries for event in entry.events]


def test_offsets_count_events_and_a_batch_is_one_entry(broker):
    first = broker.publish(LOG.topic, events(1, 2, 3), SETTINGS)
    second = broker.publish(LOG.topic, events(4), SETTINGS)
    assert (first.first_offset, first.last_offset, first.accepted) == (1, 3, 3)
    assert (second.first_offset, second.last_offset) == (4, 4)
    entries = read(broker).logs[LOG].entries
    assert [(e.first, e.last, e.sequence) for e in entries] == [(1, 3, 3), (4, 4, 4)]
    assert entries[1].arrival >= entries[0].arrival > 1_600_000_000_000


def test_a_large_batch_is_split_and_stays_in_order(broker):
    receipt = broker.publish(LOG.topic, events(*range(2 * CHUNK_EVENTS + 1)), SETTINGS)
    assert (receipt.first_offset, receipt.last_offset) == (1, 2 * CHUNK_EVENTS + 1)
    found = read(broker).logs[LOG]
    assert [e.last - e.first + 1 for e in found.entries] == [CHUNK_EVENTS, CHUNK_EVENTS, 1]
    assert numbers(broker) == list(range(2 * CHUNK_EVENTS + 1))


def test_the_sequence_of_a_partition_counts_the_events_of_all_its_topics(broker):
    other = Log(next(f"t{i}" for i in range(1000) if Log(f"t{i}").partition == LOG.partition))
    broker.publish(LOG.topic, events(1, 2), SETTINGS)
    broker.publish(other.topic, events(1), SETTINGS)
    found = broker.read(LOG.partition, {LOG: 0, other: 0})
    assert found.sequence == 3
    assert found.logs[other].entries[0].sequence == 3
    assert found.logs[other].last == 1


def test_known_ids_keep_their_offsets_and_count_once(broker):
    broker.publish(LOG.topic, [Event(id="a", data={"n": 1}), Event(id="b", data={"n": 2})], SETTINGS)
    again = broker.publish(
        LOG.topic, [Event(id="b", data={"n": 9}), Event(id="c", data={"n": 3}), Event(data={"n": 4})], SETTINGS
    )
    assert (again.accepted, again.duplicates, again.first_offset, again.last_offset) == (2, 1, 2, 4)
    all_known = broker.publish(LOG.topic, [Event(id="a", data={}), Event(id="c", data={})], SETTINGS)
    assert (all_known.accepted, all_known.duplicates) == (0, 2)
    assert (all_known.first_offset, all_known.last_offset) == (1, 3)
    assert numbers(broker) == [1, 2, 3, 4]


def test_of_equal_ids_in_a_request_the_first_is_stored(broker):
    receipt = broker.publish(LOG.topic, [Event(id="a", data={"n": 1}), Event(id="a", data={"n": 2})], SETTINGS)
    assert (receipt.accepted, receipt.duplicates) == (1, 1)
    assert numbers(broker) == [1]


def test_thousands_of_known_ids_are_found(broker):
    batch = [Event(id=f"id-{n}", data={"n": n}) for n in range(5_000)]
    broker.publish(LOG.topic, batch, SETTINGS)
    receipt = broker.publish(LOG.topic, [*batch, Event(id="new", data={"n": -1})], SETTINGS)
    assert (receipt.accepted, receipt.duplicates, receipt.last_offset) == (1, 5_000, 5_001)


def test_a_read_continues_after_an_offset_within_a_byte_budget(broker):
    for number in range(5):
        broker.publish(LOG.topic, events(number), SETTINGS)
    piece = read(broker, after=1, budget=1).logs[LOG]
    assert [e.last for e in piece.entries] == [2]
    assert piece.more
    assert [e.last for e in read(broker, after=3).logs[LOG].entries] == [4, 5]
    assert read(broker, after=NO_ENTRIES).logs[LOG].entries == []


def test_seek_finds_a_sequence_or_an_arrival(broker):
    for number in range(50):
        broker.publish(LOG.topic, events(number, number), SETTINGS)
    entries = read(broker).logs[LOG].entries
    assert broker.seek_sequence(LOG.topic, 0) == 0
    for entry in entries:
        assert broker.seek_sequence(LOG.topic, entry.sequence) == entry.last
        assert broker.seek_sequence(LOG.topic, entry.sequence - 1) == entry.first - 1
        assert broker.seek_arrival(LOG.topic, entry.arrival) >= entry.last
        assert broker.seek_arrival(LOG.topic, entry.arrival - 1) < entry.first


def test_events_beyond_the_retention_are_trimmed(broker):
    for number in range(50):
        broker.publish(LOG.topic, events(number), Windowless(retention=10))
    found = read(broker).logs[LOG]
    assert [e.last for e in found.entries] == list(range(41, 51))
    assert found.trimmed == 40
    assert broker.metadata([LOG])[0]["first"] == "41"


def test_the_last_events_of_a_count_window_outlive_the_retention(broker):
    for number in range(50):
        broker.publish(LOG.topic, events(number), Windowless(windows=(Window.parse("last 30"),), retention=10))
    assert numbers(broker) == list(range(20, 50))


def test_deleting_a_topic_deletes_the_statistics_of_windows_with_spaces_in_their_names(broker):
    fence = broker.lease([LOG.partition], "me", 60_000)[LOG.partition]
    broker.publish(LOG.topic, events(1), SETTINGS)
    logs = [Log(LOG.topic, "last 30"), Log(LOG.topic, "1m")]
    broker.append_statistics([StatisticsWrite(log, FrameKind.SNAPSHOT, 1, b"{}") for log in logs], fence)
    assert broker.metadata([LOG])[0]["windows"] == "last30 1m"
    assert broker.delete(LOG.topic)
    assert [read(broker, FROM_SNAPSHOT, log).logs[log].entries for log in logs] == [[], []]


def test_deleting_a_topic_deletes_a_window_that_gets_its_first_frame_meanwhile(broker, monkeypatch):
    """Its rows must not show up in the next topic of that name."""
    fence = broker.lease([LOG.partition], "me", 60_000)[LOG.partition]
    logs = [Log(LOG.topic, "1m"), Log(LOG.topic, "5m")]
    broker.publish(LOG.topic, events(1), SETTINGS)
    broker.append_statistics([StatisticsWrite(logs[0], FrameKind.SNAPSHOT, 1, b"{}")], fence)
    call, calls = broker.connections.call, []

    def write_before(script, *given):
        if script.name == "delete" and not calls:
            calls.append(script)
            assert broker.append_statistics([StatisticsWrite(logs[1], FrameKind.SNAPSHOT, 1, b"{}")], fence) != [None]
        return call(script, *given)

    monkeypatch.setattr(broker.connections, "call", write_before)
    assert broker.delete(LOG.topic)
    assert calls
    assert [read(broker, FROM_SNAPSHOT, log).logs[log].entries for log in logs] == [[], []]
    assert broker.delete(LOG.topic) is False


def test_trimming_keeps_up_with_requests_of_many_entries(broker):
    for _ in range(3):
        broker.publish(LOG.topic, events(*range(12 * CHUNK_EVENTS)), Windowless(retention=10))
    assert len(read(broker).logs[LOG].entries) == 1


def test_events_that_a_window_needs_outlive_the_retention(broker):
    for number in range(40):
        broker.publish(LOG.topic, events(number), replace(SETTINGS, retention=10))
    assert len(numbers(broker)) == 40


def test_an_event_clock_refuses_a_jump_within_a_batch(broker):
    settings = TopicSettings(clock="event", windows=(Window.parse("1m"),))
    broker.publish(LOG.topic, events(1, time=1_000_000_000_000), settings)
    mixed = events(2, time=1_000_000_000_000) + events(3, time=1_000_000_900_000)
    with pytest.raises(InvalidBatch) as refused:
        broker.publish(LOG.topic, mixed, settings)
    assert (refused.value.faults[0].line, refused.value.faults[0].field) == (2, "time")
    assert numbers(broker) == [1]
    broker.publish(LOG.topic, mixed[1:], settings)
    broker.publish(LOG.topic, mixed, replace(settings, jump=True))
    assert numbers(broker) == [1, 3, 2, 3]


def test_count_windows_allow_any_event_time(broker):
    settings = TopicSettings(clock="event", windows=(Window.parse("last 30"),))
    broker.publish(LOG.topic, events(1, time=1_000_000_000_000), settings)
    mixed = events(2, time=1_000_000_000_000) + events(3, time=1_500_000_000_000)
    broker.publish(LOG.topic, mixed, settings)
    assert numbers(broker) == [1, 2, 3]


def test_offsets_of_a_deleted_topic_are_never_reused(broker):
    broker.publish(LOG.topic, [Event(id="a", data={"n": 1})], SETTINGS)
    before = read(broker)
    assert broker.delete(LOG.topic)
    assert not broker.delete(LOG.topic)
    assert broker.topics() == {}
    gone = read(broker)
    assert gone.logs[LOG].entries == []
    assert gone.logs[LOG].created == 0
    assert gone.logs[LOG].deleted > before.sequence
    receipt = broker.publish(LOG.topic, [Event(id="a", data={"n": 2})], SETTINGS)
    assert (receipt.accepted, receipt.first_offset) == (1, 2)
    assert list(broker.topics()) == [LOG.topic]


def frames(broker, fence, *kinds, window="1m"):
    log = Log(LOG.topic, window)
    return broker.append_statistics(
        [StatisticsWrite(log, FrameKind(kind), 1, b'{"k":"%s"}' % kind.encode()) for kind in kinds], fence
    )


def test_a_statistics_log_keeps_its_last_two_snapshots(broker):
    broker.publish(LOG.topic, events(1), SETTINGS)
    fence = broker.lease([LOG.partition], "me", 10_000)[LOG.partition]
    frames(broker, fence, "s", "u", "b", "u", "u")
    log = Log(LOG.topic, "1m")
    kept = read(broker, 0, log).logs[log]
    assert [e.kind for e in kept.entries] == ["s", "u", "b", "u", "u"]
    assert kept.trimmed == 0
    frames(broker, fence, "s")
    kept = read(broker, 0, log).logs[log]
    assert [e.kind for e in kept.entries] == ["b", "u", "u", "s"]
    assert kept.trimmed == kept.entries[0].sequence - 1
    assert [e.kind for e in read(broker, FROM_SNAPSHOT, log).logs[log].entries] == ["s"]
    assert broker.metadata([LOG])[0]["windows"] == "1m"


def test_a_former_owner_of_a_partition_cannot_write(broker):
    broker.publish(LOG.topic, events(1), SETTINGS)
    old = broker.lease([LOG.partition], "old", 10_000)[LOG.partition]
    assert broker.lease([LOG.partition], "new", 10_000) == {}
    assert broker.lease([LOG.partition], "old", 10_000) == {LOG.partition: old}
    broker.release([LOG.partition], "old")
    assert broker.lease([LOG.partition], "old", 10_000) == {LOG.partition: old}, "there was no other owner"
    broker.release([LOG.partition], "old")
    new = broker.lease([LOG.partition], "new", 10_000)[LOG.partition]
    assert new > old
    assert isinstance(frames(broker, old, "s")[0], Fenced)
    with pytest.raises(Fenced):
        broker.publish(LOG.topic, events(2), SETTINGS, fence=old)
    assert numbers(broker) == [1]


def test_refusals_are_recorded_for_existing_topics_only(broker):
    broker.record_refusal("nothing", "bad")
    assert broker.topics() == {}
    broker.publish(LOG.topic, events(1), SETTINGS)
    broker.record_refusal(LOG.topic, "line 1: bad")
    assert broker.metadata([LOG])[0]["last_refusal"] == "line 1: bad"


def test_a_restarted_server_starts_a_new_epoch(start_redis):
    server = start_redis()
    with closing(Broker(server.url)) as broker:
        broker.publish(LOG.topic, events(1), SETTINGS)
        before = read(broker)
        server.stop()
        with pytest.raises(BrokerUnavailable):
            broker.ping()
        server.start()
        after = read(broker)
        assert after.epoch != before.epoch
        assert after.sequence == before.sequence
        assert numbers(broker) == [1]


def fill(broker, batch):
    """Publish until the server is full; return how many batches it stored."""
    for stored in range(100):
        try:
            broker.publish(LOG.topic, batch, SETTINGS)
        except BrokerFull:
            return stored
    raise AssertionError("the server never became full")


def test_a_full_server_refuses_whole_batches(start_redis):
    with closing(Broker(start_redis(maxmemory="3mb").url)) as broker:
        big = events("x" * 100_000)
        stored = fill(broker, big)
        assert read(broker, NO_ENTRIES).logs[LOG].last == stored
        assert read(broker).sequence == stored


def test_partitions_spread_evenly_over_a_clusters_slots():
    from binascii import crc_hqx

    from pushsvc.broker.keys import TAGS

    assert sorted(crc_hqx(tag.encode(), 0) % 16384 // 256 for tag in TAGS) == list(range(64))
