"""Merged requests get the same replies, and leave the same log, as requests sent one by one."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import hiredis
import pytest

from pushsvc.broker.append import pack_calls
from pushsvc.broker.broker import Broker
from pushsvc.broker.keys import Log
from pushsvc.broker.limits import BrokerLimits
from pushsvc.errors import PushError
from pushsvc.event import Batch, Event
from pushsvc.settings import TopicSettings
from support.reference.appended import EVENT, SECOND, WALL, commit, requests, stored


def headers(broker: Broker, topic: str) -> list[tuple[int, int, int]]:
    """Return number of events, least and greatest time of each entry."""
    entries = broker.connections.command("XRANGE", broker.keys.log(Log(topic)), "-", "+")
    return [tuple(map(int, fields[1].split()[2:5])) for _, fields in entries]  # type: ignore[misc]


def test_a_merged_entry_has_the_least_and_greatest_time_of_all_requests(broker: Broker) -> None:
    batches = [Batch.from_events([Event(time=SECOND + ms)]) for ms in (500, 100, 900)]
    commit(broker, requests(broker, "t", batches, WALL))
    assert headers(broker, "t") == [(3, SECOND + 100, SECOND + 900)]
    commit(broker, requests(broker, "t", [*batches, Batch.from_events([Event()])], WALL))
    (_, least, greatest) = headers(broker, "t")[1]
    assert least == SECOND + 100
    assert greatest > 1_700_000_000_000, "the time of an event without one is its arrival"


def test_of_concurrent_events_with_equal_ids_the_first_is_stored(broker: Broker) -> None:
    batches = [Batch.from_events([Event(id=name, data={"n": n})]) for n, name in enumerate("abab")]
    replies = commit(broker, requests(broker, "t", batches, WALL))
    assert replies[:2] == [[b"ok", 1, 1], [b"ok", 2, 2]]
    assert replies[2:] == [[b"known", 0, 1], [b"known", 0, 2]]
    assert [event["n"] for event in stored(broker, "t")] == [0, 1]


def test_a_known_event_does_not_block_merged_requests(broker: Broker) -> None:
    broker.publish("t", [Event(id="a")], WALL)
    batches = [Batch.from_events([Event(id=name)]) for name in "bac"]
    assert commit(broker, requests(broker, "t", batches, WALL)) == [[b"ok", 2, 2], [b"known", 0, 1], [b"ok", 3, 3]]


def test_the_event_clock_judges_each_request_alone(broker: Broker) -> None:
    given = [[Event(time=SECOND)], [Event(time=SECOND + 5), Event(time=SECOND + 60_000)], [Event(time=SECOND + 9)]]
    replies = commit(broker, requests(broker, "t", [Batch.from_events(events) for events in given], EVENT))
    assert replies == [[b"ok", 1, 1], [b"ahead", SECOND], [b"ok", 2, 2]]


@pytest.mark.parametrize(("name", "bound"), [("chunk_events", 4), ("chunk_bytes", 45)])
def test_merged_entries_keep_the_limits_of_an_entry(redis_url: str, prefix: str, name: str, bound: int) -> None:
    batches = [Batch.from_events([Event(data={"n": n}), Event(data={"n": n})]) for n in range(5)]
    assert len(batches[0].data) == 15
    limits = replace(BrokerLimits(), **{name: bound})
    with closing(Broker(redis_url, prefix, limits=limits)) as broker:
        replies = commit(broker, requests(broker, "t", batches, WALL, limits))
        assert [reply[1] for reply in replies] == [1, 3, 5, 7, 9]
        assert [count for count, _, _ in headers(broker, "t")] == [4, 4, 2]


def test_topics_share_a_round_trip_but_no_entry(broker: Broker) -> None:
    batches = [Batch.from_events([Event()])]
    group = [request for topic in "abab" for request in requests(broker, topic, batches, WALL)]
    assert commit(broker, group) == [[b"ok", 1, 1], [b"ok", 1, 1], [b"ok", 2, 2], [b"ok", 2, 2]]


def test_each_merged_request_gets_its_own_error(broker: Broker) -> None:
    broker.publish("t", [Event()], WALL)
    log = broker.keys.log(Log("t"))
    broker.connections.command("DEL", log)
    broker.connections.command("SET", log, "of another kind")
    group = requests(broker, "t", [Batch.from_events([Event()])] * 3, WALL)
    replies = commit(broker, group)
    assert all(isinstance(reply, PushError) and "WRONGTYPE" in reply.detail for reply in replies)
    assert len(set(map(id, replies))) == 3


TIMED = Batch.from_events([Event(time=5_000), Event(key="b")])


@pytest.mark.parametrize("settings", [WALL, replace(WALL, latest=True), replace(WALL, index=("key",))])
@pytest.mark.parametrize("batch", [TIMED, TIMED.select([0]), Batch.from_events([Event(id="one"), Event()])])
def test_a_call_is_packed_as_its_words_are(broker: Broker, batch: Batch, settings: TopicSettings) -> None:
    [request] = requests(broker, "t", [batch], settings)
    for run in ("a" * 40, "b" * 40, "b" * 40):
        assert b"".join(pack_calls([request.call], run)) == hiredis.pack_command(tuple(request.call.command(run)))


def test_a_large_publish_is_packed_without_another_copy(broker: Broker) -> None:
    events = [Event(id=f"id {n}", data={"text": "ü" * 1_000}) for n in range(1_000)]
    group = requests(broker, "t", [Batch.from_events(some) for some in (events[:1], events[1:], events[:2])], WALL)
    calls = [request.call for request in group]
    pieces = pack_calls(calls, "run")
    assert b"".join(pieces) == b"".join(hiredis.pack_command(tuple(call.command("run"))) for call in calls)
    assert max(map(len, pieces)) <= BrokerLimits().chunk_bytes
    assert commit(broker, group[1:2]) == [[b"ok", 1, 999]]
