"""The index of a topic beside its log: what it holds after publishes, trims, changed settings and deletions."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from unittest.mock import Mock

import pytest

from pushsvc.broker.append import Append, MergedAppend
from pushsvc.broker.limits import BrokerLimits
from pushsvc.errors import Unavailable
from pushsvc.event import Batch, Event
from pushsvc.event.index import term
from pushsvc.settings import TopicRules
from pushsvc.worker.retention import Sweeper
from support.reference.logs import LOG, PARTITION, Windowless

TOPIC = LOG.topic
SEGMENT = 4_096  # events of which the index drops the members together
INDEXED = Windowless(index=("user", "key"))
PLAIN = replace(INDEXED, index=())


@pytest.fixture
def fence(broker):
    return broker.lease([PARTITION], "me", 3_600_000)[PARTITION]


def users(*names):
    return [Event(key="k", data={"user": name}) for name in names]


def members(broker):
    return broker.connections.command("ZCARD", broker.keys.index(TOPIC))


def found(broker, text, offset=0, name="user"):
    """Return the look-up of a value, and the offsets and users of its events."""
    answer = broker.index.after(TOPIC, INDEXED.index, [term(name, text)], offset)
    return answer, [(at, Event.decode(line).data["user"]) for entry in answer.entries for at, line in entry.lines()]


def test_events_are_found_in_their_entries_in_both_directions(broker):
    for names in (["a", "b", "a"], ["b"], ["c", "a"]):
        broker.publish(TOPIC, users(*names), INDEXED)
    answer, events = found(broker, "a")
    assert events == [(1, "a"), (3, "a"), (6, "a")]
    assert (answer.covered, answer.reached, answer.last) == (True, 6, 6)
    assert [(entry.first, entry.last) for entry in answer.entries] == [(1, 3), (5, 6)]
    back = broker.index.before(TOPIC, INDEXED.index, [term("user", "b"), term("user", "c")], "+")
    assert [at for entry in back.entries for at, _ in entry.lines()] == [5, 4, 2]
    assert back.reached == 1


def test_a_topic_without_the_setting_has_no_index(broker):
    broker.publish(TOPIC, users("a"), PLAIN)
    assert not members(broker)
    assert not found(broker, "a")[0].covered


def test_merged_requests_are_indexed_with_the_offsets_that_they_get(broker):
    target = broker._publisher.target(TOPIC, INDEXED)
    calls = [Append(target, Batch.from_events(users(name))) for name in ("a", "b", "a")]
    merged = MergedAppend(0, calls[0])
    for place, call in enumerate(calls[1:], 1):
        assert merged.merge(place, call)
    broker.committer.call(merged.call())
    assert found(broker, "a")[1] == [(1, "a"), (3, "a")]


def test_a_large_request_becomes_short_entries_that_are_all_indexed(broker):
    limit = BrokerLimits().indexed_chunk_events
    broker.publish(TOPIC, users(*(f"u{number % 7}" for number in range(3 * limit))), INDEXED)
    answer, events = found(broker, "u3")
    assert [entry.last - entry.first + 1 for entry in answer.entries] == [limit] * 3
    assert [at for at, _ in events] == [number + 1 for number in range(3 * limit) if number % 7 == 3]


def test_the_index_is_trimmed_with_the_log(broker, fence):
    """What is left of trimmed events is at most a segment."""
    settings = replace(INDEXED, retention=100)
    for _ in range(20):
        broker.publish(TOPIC, users(*(["a"] * 1_000)), settings)
    assert 2 * 100 <= members(broker) <= 2 * (SEGMENT + 300)
    broker.publish(TOPIC, users(*(["b"] * SEGMENT)), replace(settings, retention=10**6))
    while broker.sweep({TOPIC: settings}, fence, 50)[TOPIC].more:
        pass
    assert members(broker) <= 2 * (SEGMENT + 300)
    assert not found(broker, "a")[1]


def test_a_sweep_drops_the_index_when_the_setting_is_gone(broker, fence):
    broker.publish(TOPIC, users("a"), INDEXED)
    broker.sweep({TOPIC: PLAIN}, fence, 50)
    assert not members(broker)
    broker.publish(TOPIC, users("a"), INDEXED)
    answer, _ = found(broker, "a")
    assert not answer.covered, "the first event is not in the index any more"
    assert found(broker, "a", 1)[1] == [(2, "a")]


def test_a_deleted_topic_has_no_index(broker):
    broker.publish(TOPIC, users("a"), INDEXED)
    broker.delete(TOPIC)
    assert not members(broker)
    broker.publish(TOPIC, users("b", "a"), INDEXED)
    assert found(broker, "a", 1)[1] == [(3, "a")]


def test_a_sweeper_fills_the_index_from_the_newest_event_down(broker, fence):
    for start in range(0, 3_000, 500):
        broker.publish(TOPIC, users(*(f"u{number % 10}" for number in range(start, start + 500))), PLAIN)
    assert not broker.index.fill(TOPIC, INDEXED.index, 1)
    assert not found(broker, "u3")[0].covered
    assert found(broker, "u3", 2_000)[0].covered
    broker.publish(TOPIC, users("u3"), INDEXED)
    Sweeper(broker, TopicRules([(TOPIC, INDEXED)]), lambda: {PARTITION: fence}).round()
    answer, events = found(broker, "u3")
    assert (answer.covered, len(events)) == (True, 301)
    assert broker.index.behind({TOPIC: INDEXED.index}) == []
    assert members(broker) == 2 * 3_001


def test_an_index_whose_filling_an_outage_broke_off_is_filled_by_the_next_round(broker, fence, monkeypatch):
    broker.publish(TOPIC, users("a"), PLAIN)
    sweeper = Sweeper(broker, TopicRules([(TOPIC, INDEXED)]), lambda: {PARTITION: fence})
    monkeypatch.setattr(broker.index, "fill", Mock(side_effect=Unavailable("away")))
    with pytest.raises(Unavailable):
        sweeper.round()
    monkeypatch.undo()
    sweeper.round()
    assert broker.index.behind({TOPIC: INDEXED.index}) == []


def test_what_a_process_without_the_setting_publishes_is_not_missed(broker):
    broker.publish(TOPIC, users("a"), INDEXED)
    broker.publish(TOPIC, users("a"), PLAIN)
    answer, events = found(broker, "a")
    assert (events, answer.reached, answer.last) == ([(1, "a")], 1, 2)
    assert not found(broker, "a", 1)[0].covered
    broker.publish(TOPIC, users("a"), INDEXED)
    assert not found(broker, "a")[0].covered
    assert broker.index.fill(TOPIC, INDEXED.index, 9)
    assert [at for at, _ in found(broker, "a")[1]] == [1, 2, 3]


def test_one_call_is_bounded_and_the_next_goes_on(broker):
    broker.publish(TOPIC, users(*(["a"] * 1_200)), INDEXED)
    offset, calls, seen = 0, Counter(), []
    while offset < 1_200:
        answer, events = found(broker, "a", offset)
        calls[len(events)] += 1
        seen += [at for at, _ in events]
        offset = answer.reached
    assert seen == list(range(1, 1_201))
    assert calls == {500: 2, 200: 1}
