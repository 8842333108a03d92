"""Requests that share a publish call get the answers, and leave the log, that they would have alone."""

from __future__ import annotations

import pytest

from pushsvc.broker import append
from pushsvc.broker.broker import Broker
from pushsvc.broker.keys import Log
from pushsvc.errors import PushError
from pushsvc.event import Batch, Event
from support.accounts.appended import EVENT, SECOND, WALL, commit, requests, stored


def headers(broker: Broker, topic: str) -> list[tuple[int, int, int]]:
    """Return number of events, least and greatest time of each entry."""
    entries = broker._connections.command("XRANGE", broker.keys.log(Log(topic)), "-", "+")
    return [tuple(map(int, fields[1].split()[2:5])) for _, fields in entries]  # type: ignore[misc]


def test_a_shared_entry_tells_least_and_greatest_time_of_all(broker: Broker) -> None:
    given = [Batch.from_events([Event(time=SECOND + ms)]) for ms in (500, 100, 900)]
    commit(broker, requests(broker, "t", given, WALL))
    assert headers(broker, "t") == [(3, SECOND + 100, SECOND + 900)]
    commit(broker, requests(broker, "t", [*given, Batch.from_events([Event()])], WALL))
    (_, least, greatest) = headers(broker, "t")[1]
    assert least == SECOND + 100
    assert greatest > 1_700_000_000_000, "an event without a time has that of its arrival"


def test_of_equal_ids_that_come_together_one_is_stored(broker: Broker) -> None:
    given = [Batch.from_events([Event(id=name, data={"n": n})]) for n, name in enumerate("abab")]
    answers = commit(broker, requests(broker, "t", given, WALL))
    assert answers[:2] == [[b"ok", 1, 1], [b"ok", 2, 2]]
    assert answers[2:] == [[b"known", 0, 1], [b"known", 0, 2]]
    assert [event["n"] for event in stored(broker, "t")] == [0, 1]


def test_one_known_event_does_not_keep_the_others_out(broker: Broker) -> None:
    broker.publish("t", [Event(id="a")], WALL)
    given = [Batch.from_events([Event(id=name)]) for name in "bac"]
    assert commit(broker, requests(broker, "t", given, WALL)) == [[b"ok", 2, 2], [b"known", 0, 1], [b"ok", 3, 3]]


def test_each_is_held_against_the_event_clock_by_itself(broker: Broker) -> None:
    given = [[Event(time=SECOND)], [Event(time=SECOND + 5), Event(time=SECOND + 60_000)], [Event(time=SECOND + 9)]]
    answers = commit(broker, requests(broker, "t", [Batch.from_events(events) for events in given], EVENT))
    assert answers == [[b"ok", 1, 1], [b"ahead", SECOND], [b"ok", 2, 2]]


@pytest.mark.parametrize(("name", "bound"), [("CHUNK_EVENTS", 4), ("CHUNK_BYTES", 45)])
def test_shared_entries_are_bounded_as_those_of_one_request(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, name: str, bound: int
) -> None:
    monkeypatch.setattr(append, name, bound)
    given = [Batch.from_events([Event(data={"n": n}), Event(data={"n": n})]) for n in range(5)]
    assert len(given[0].data) == 15
    answers = commit(broker, requests(broker, "t", given, WALL))
    assert [answer[1] for answer in answers] == [1, 3, 5, 7, 9]
    assert [count for count, _, _ in headers(broker, "t")] == [4, 4, 2]


def test_topics_share_a_round_trip_and_no_entry(broker: Broker) -> None:
    given = [Batch.from_events([Event()])]
    asked = [request for topic in "abab" for request in requests(broker, topic, given, WALL)]
    assert commit(broker, asked) == [[b"ok", 1, 1], [b"ok", 1, 1], [b"ok", 2, 2], [b"ok", 2, 2]]


def test_an_error_of_redis_is_one_for_each(broker: Broker) -> None:
    broker.publish("t", [Event()], WALL)
    log = broker.keys.log(Log("t"))
    broker._connections.command("DEL", log)
    broker._connections.command("SET", log, "of another kind")
    asked = requests(broker, "t", [Batch.from_events([Event()])] * 3, WALL)
    answers = commit(broker, asked)
    assert all(isinstance(answer, PushError) and "WRONGTYPE" in answer.detail for answer in answers)
    assert len(set(map(id, answers))) == 3
