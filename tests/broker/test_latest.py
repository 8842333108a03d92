"""The newest event of each key, which Redis keeps beside the log: against a fold of everything that was published."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from random import Random

import gevent
import pytest

from pushsvc.broker.broker import Broker
from pushsvc.broker.keys import Log
from pushsvc.broker.limits import BrokerLimits
from pushsvc.event import Event
from pushsvc.settings import TopicRules, TopicSettings
from pushsvc.topic import partition_of
from pushsvc.worker.retention import Sweeper
from support.latest import fold
from support.waiting import until

TOPIC = "board"
KEEPING = TopicSettings(windows=(), latest=True)
PLAIN = replace(KEEPING, latest=False)


class Published:
    """Publishes, and remembers what was published in its public form."""

    def __init__(self, broker, settings=KEEPING):
        self.broker = broker
        self.settings = settings
        self.events = []

    def publish(self, events, settings=None, **options):
        receipt = self.broker.publish(TOPIC, events, settings or self.settings, **options)
        offset = receipt.first_offset
        for number, event in enumerate(events):
            self.events.append(event.public(TOPIC, offset + number, receipt.arrival))
        return receipt

    def agrees(self, most=None):
        events, evicted = fold(self.events, most or self.settings.max_keys)
        found = self.broker.latest.read(TOPIC, self.settings)
        assert public(found) == events
        assert found.evicted == evicted
        assert found.last == len(self.events)
        return True


def public(found):
    return [Event.decode(one.line).public(TOPIC, one.offset, one.arrival) for one in found.events.values()]


def some_events(chance, count, keys=8):
    return [
        Event(
            key=chance.choice([None, *(f"k{number}" for number in range(keys))]),
            type=chance.choice(["message", "message", "moved", "delete", "deleted"]),
            data={"n": chance.randrange(1000), "text": "ü" * chance.randrange(5)},
        )
        for _ in range(count)
    ]  # fmt: skip


@pytest.fixture
def published(broker):
    return Published(broker)


def test_each_key_has_its_newest_event_and_a_deletion_removes_its_key(published):
    published.publish([Event(key="a", data={"n": 1}), Event(key="b", data={"n": 2}), Event(data={"n": 3})])
    published.publish([Event(key="a", data={"n": 4}), Event(key="c", data={"n": 5})])
    published.publish([Event(key="b", type="delete")])
    found = published.broker.latest.read(TOPIC, KEEPING)
    assert [(event.get("key"), event["n"], event["$offset"]) for event in public(found)] == [("a", 4, 4), ("c", 5, 5)]
    assert published.agrees()


@pytest.mark.parametrize("seed", range(5))
def test_the_newest_events_are_the_fold_of_the_log_and_survive_its_trimming(broker, seed):
    chance = Random(seed)
    published = Published(broker, replace(KEEPING, retention=5))
    for _ in range(30):
        published.publish(some_events(chance, chance.randrange(1, 12)))
    assert len(broker.read_back(TOPIC, "+").entries) < 30
    assert published.agrees()


@pytest.mark.parametrize("seed", range(5))
def test_beyond_max_keys_the_oldest_go_and_are_counted(broker, seed):
    chance = Random(seed)
    published = Published(broker, replace(KEEPING, max_keys=5))
    for _ in range(80):
        published.publish(some_events(chance, 1, keys=12))
        assert published.agrees()
    assert broker.latest.read(TOPIC, published.settings).evicted > 0


def test_a_batch_of_several_entries_counts_the_places_of_its_events(redis_url, prefix):
    limits = BrokerLimits(chunk_events=3)
    with closing(Broker(redis_url, prefix, limits=limits)) as broker:
        published, chance = Published(broker), Random(1)
        published.publish(some_events(chance, 20))
        events = some_events(chance, 20)
        for number, event in enumerate(events):
            event.id = f"id-{number}"
        published.publish(events)
        broker.publish(TOPIC, events[3:9], KEEPING)  # known events store nothing
        assert published.agrees()


def test_a_topic_may_have_an_index_too(broker):
    published, chance = Published(broker, replace(KEEPING, index=("key", "n"), max_keys=4, retention=10)), Random(3)
    for number in range(40):
        events = some_events(chance, 1)
        events[0].id = f"id-{number}" if number % 2 else None
        published.publish(events)
        assert published.agrees()


def test_more_keys_than_one_call_takes_are_stored_and_evicted(broker):
    settings = replace(KEEPING, max_keys=3_000)
    published = Published(broker, settings)
    published.publish([Event(key=f"k{number}", data={"n": number}) for number in range(9_000)])
    found = broker.latest.read(TOPIC, settings)
    assert found.evicted == 6_000
    assert [event["n"] for event in public(found)] == list(range(6_000, 9_000))
    published.publish([Event(key=f"k{number}", type="deleted") for number in range(6_500, 9_000)])
    assert len(broker.latest.read(TOPIC, settings).events) == 500


@pytest.mark.parametrize("seed", range(3))
def test_pages_that_are_read_while_keys_change_are_one_instant(broker, monkeypatch, seed):
    """The read of a page is followed by publishes, which change, remove and evict keys of pages before and after it."""
    broker.latest.page_bytes = 400
    chance = Random(seed)
    published = Published(broker, replace(KEEPING, max_keys=30))
    for _ in range(200):
        published.publish(some_events(chance, 1, keys=40))
    store, pages = broker.latest, []
    read_page = store._page

    def read_and_publish(*args, **options):
        page = read_page(*args, **options)
        if len(pages) < 3:
            for _ in range(3):
                published.publish(some_events(chance, 1, keys=40))
        pages.append(page)
        return page

    monkeypatch.setattr(store, "_page", read_and_publish)
    found = store.read(TOPIC, published.settings)
    assert len(pages) > 3
    events, _ = fold(published.events[: found.last], 30)
    assert public(found) == events


@pytest.mark.parametrize("switched", ["before the first event", "later", "off and on"])
def test_switching_latest_on_fills_it_from_the_log(broker, switched):
    chance = Random(switched)
    published = Published(broker)
    if switched == "off and on":
        published.publish(some_events(chance, 30))
    if switched != "before the first event":
        published.publish(some_events(chance, 30), PLAIN)
        published.publish(some_events(chance, 30), PLAIN)
    published.publish(some_events(chance, 30))
    assert published.agrees()
    assert not broker.latest.behind([TOPIC])
    published.publish(some_events(chance, 5))
    assert not broker.latest.behind([TOPIC])
    assert published.agrees()


def test_events_that_were_trimmed_while_latest_was_off_leave_no_trace(broker):
    """A trimmed event may have removed a key, so keys that the log does not have any more are forgotten."""
    published = Published(broker)
    published.publish([Event(key="old"), Event(key="kept")])
    broker.publish(TOPIC, [Event(key="old", type="delete")], PLAIN)
    for _ in range(3):
        broker.publish(TOPIC, [Event(key="new")], replace(PLAIN, retention=1))
    assert list(broker.latest.read(TOPIC, KEEPING).events) == ["new"]


def test_publishes_during_a_filling_are_not_lost(broker):
    chance = Random(7)
    published = Published(broker)
    published.publish(some_events(chance, 500), PLAIN)
    done = []

    def publish():
        for _ in range(50):
            published.publish(some_events(chance, 2))
        done.append(True)

    publishing = gevent.spawn(publish)
    until(lambda: published.broker.latest.read(TOPIC, KEEPING) and done, sleep=gevent.sleep)
    publishing.get()
    assert published.agrees()


def test_the_sweeper_fills_before_it_trims(broker):
    published = Published(broker)
    events = [Event(key=f"k{number}") for number in range(5)]
    for event in events:
        published.publish([event], PLAIN)
    partition = partition_of(TOPIC)
    fence = broker.lease([partition], "me", 3_600_000)[partition]
    rules = TopicRules([(TOPIC, replace(KEEPING, retention=1))])
    Sweeper(broker, rules, lambda: {partition: fence}).round()
    assert len(broker.read_back(TOPIC, "+").entries) == 1
    assert not broker.latest.behind([TOPIC])
    assert published.agrees()


@pytest.mark.parametrize("length", [1, 31, 32, 200])
def test_keys_and_events_of_any_length_are_stored_and_filled(published, length):
    events = [Event(key="ü" * length, data={"t": "x" * size}) for size in (1, 40, 300, 65_000)]
    for event in events:
        published.publish([event])
        assert published.agrees()
    for event in events:
        published.publish([event], PLAIN)
        assert published.agrees()


def test_the_end_of_a_topic_is_the_end_of_its_newest_events(published):
    published.publish([Event(key="a"), Event(key="b")])
    assert published.broker.delete(TOPIC)
    found = published.broker.latest.read(TOPIC, KEEPING)
    assert (found.events, found.evicted) == ({}, 0)
    names = [published.broker.keys.metadata(Log(TOPIC)), *published.broker.keys.latest(TOPIC)]
    assert published.broker.connections.command("EXISTS", *names) == 0
    receipt = published.broker.publish(TOPIC, [Event(key="c")], KEEPING)
    assert receipt.first_offset == 3
    assert list(published.broker.latest.read(TOPIC, KEEPING).events) == ["c"]


def test_some_keys_are_looked_up_alone(published):
    published.publish([Event(key=f"k{number}", data={"n": number}) for number in range(50)])
    found = published.broker.latest.pick(TOPIC, KEEPING, ["k7", "none", "k3"])
    assert [(key, event.offset) for key, event in found.events.items()] == [("k3", 4), ("k7", 8)]
    assert published.broker.latest.pick(TOPIC, KEEPING, []).events == {}


def test_concurrent_publishes_in_one_call_keep_the_newest(broker):
    settings = KEEPING
    jobs = [gevent.spawn(broker.publish, TOPIC, [Event(key=f"k{number % 7}", data={"n": number})], settings)
            for number in range(70)]  # fmt: skip
    gevent.joinall(jobs, raise_error=True)
    log = [
        event.public(TOPIC, entry.first + number, entry.arrival)
        for entry in reversed(broker.read_back(TOPIC, "+").entries)
        for number, event in enumerate(entry.events)
    ]
    assert public(broker.latest.read(TOPIC, settings)) == fold(log)[0]
