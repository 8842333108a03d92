"""Requests that share a publish call get the answers, and leave the log, that they would have alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushsvc.broker import Broker, Log, append
from pushsvc.broker.append import Append
from pushsvc.broker.committer import _Request
from pushsvc.errors import PushError
from pushsvc.event import Batch, Event
from pushsvc.settings import TopicSettings, Window

WALL = TopicSettings()
EVENT = TopicSettings(clock="event", windows=(Window.parse("10s"),))
SECOND = 1_000_000


def requests(broker: Broker, topic: str, batches: Sequence[Batch], settings: TopicSettings) -> list[_Request]:
    target = broker._publisher._target(topic, settings)
    return [_Request(Append(target, batch), "") for batch in batches]


def commit(broker: Broker, asked: list[_Request]) -> list[Any]:
    """Run requests as one group; return the answers, of which arrivals are no matter."""
    broker._committer._commit(asked, idle=True)
    return [request.answer if isinstance(request.answer, PushError) else request.answer[:3] for request in asked]


def stored(broker: Broker, topic: str) -> list[dict[str, Any]]:
    log = Log(topic)
    found = broker.read(log.partition, {log: 0}).logs[log]
    return [
        {"offset": entry.first + at, "id": event.id, "time": event.time} | event.data
        for entry in found.entries
        for at, event in enumerate(entry.events)
    ]


def headers(broker: Broker, topic: str) -> list[tuple[int, int, int]]:
    """Return number of events, least and greatest time of each entry."""
    entries = broker._connections.command("XRANGE", broker.keys.log(Log(topic)), "-", "+")
    return [tuple(map(int, fields[1].split()[2:5])) for _, fields in entries]  # type: ignore[misc]


NUMBERS = iter(range(1_000_000))
names = st.none() | st.sampled_from("abcdef")
times = st.none() | st.integers(SECOND, SECOND + 20_000)
batches = st.lists(st.lists(st.tuples(names, times), min_size=1, max_size=4), min_size=1, max_size=8)


@given(batches, st.sampled_from([WALL, EVENT]))
def test_each_learns_what_became_of_its_own_events(redis_url: str, batches: Any, settings: TopicSettings) -> None:
    broker = Broker(redis_url, f"append-{next(NUMBERS)}:")
    asked = []
    for at, batch in enumerate(batches):
        whole = Batch.of([Event(id=name, time=time, data={"of": at}) for name, time in batch])
        asked.append(whole.without(whole.repeated()))
    answers = commit(broker, requests(broker, "t", asked, settings))
    log = stored(broker, "t")
    kept = 0
    for at, (batch, answer) in enumerate(zip(asked, answers, strict=True)):
        own = log[answer[1] - 1 : answer[2]] if answer[0] == b"ok" else []
        kept += len(own)
        if own:
            assert [event["of"] for event in own] == [at] * batch.count
            assert [event["id"] or "" for event in own] == list(batch.ids or [""] * batch.count)
            assert [event["time"] for event in own] == list(batch.times or [None] * batch.count)
        elif answer[0] == b"known":
            assert batch.ids is not None
            assert log[answer[2] - 1]["id"] == batch.ids[answer[1]]
            assert log[answer[2] - 1]["of"] != at
        else:
            assert (answer[0], settings) == (b"ahead", EVENT)
    assert kept == len(log) >= 1
    ids = [event["id"] for event in log if event["id"]]
    assert len(ids) == len(set(ids))
    broker.close()


def test_a_shared_entry_tells_least_and_greatest_time_of_all(broker: Broker) -> None:
    given = [Batch.of([Event(time=SECOND + ms)]) for ms in (500, 100, 900)]
    commit(broker, requests(broker, "t", given, WALL))
    assert headers(broker, "t") == [(3, SECOND + 100, SECOND + 900)]
    commit(broker, requests(broker, "t", [*given, Batch.of([Event()])], WALL))
    (_, least, greatest) = headers(broker, "t")[1]
    assert least == SECOND + 100
    assert greatest > 1_700_000_000_000, "an event without a time has that of its arrival"


def test_of_equal_ids_that_come_together_one_is_stored(broker: Broker) -> None:
    given = [Batch.of([Event(id=name, data={"n": n})]) for n, name in enumerate("abab")]
    answers = commit(broker, requests(broker, "t", given, WALL))
    assert answers[:2] == [[b"ok", 1, 1], [b"ok", 2, 2]]
    assert answers[2:] == [[b"known", 0, 1], [b"known", 0, 2]]
    assert [event["n"] for event in stored(broker, "t")] == [0, 1]


def test_one_known_event_does_not_keep_the_others_out(broker: Broker) -> None:
    broker.publish("t", [Event(id="a")], WALL)
    given = [Batch.of([Event(id=name)]) for name in "bac"]
    assert commit(broker, requests(broker, "t", given, WALL)) == [[b"ok", 2, 2], [b"known", 0, 1], [b"ok", 3, 3]]


def test_each_is_held_against_the_event_clock_by_itself(broker: Broker) -> None:
    given = [[Event(time=SECOND)], [Event(time=SECOND + 5), Event(time=SECOND + 60_000)], [Event(time=SECOND + 9)]]
    answers = commit(broker, requests(broker, "t", [Batch.of(events) for events in given], EVENT))
    assert answers == [[b"ok", 1, 1], [b"ahead", SECOND], [b"ok", 2, 2]]


@pytest.mark.parametrize(("name", "bound"), [("CHUNK_EVENTS", 4), ("CHUNK_BYTES", 45)])
def test_shared_entries_are_bounded_as_those_of_one_request(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, name: str, bound: int
) -> None:
    monkeypatch.setattr(append, name, bound)
    given = [Batch.of([Event(data={"n": n}), Event(data={"n": n})]) for n in range(5)]
    assert len(given[0].data) == 15
    answers = commit(broker, requests(broker, "t", given, WALL))
    assert [answer[1] for answer in answers] == [1, 3, 5, 7, 9]
    assert [count for count, _, _ in headers(broker, "t")] == [4, 4, 2]


def test_topics_share_a_round_trip_and_no_entry(broker: Broker) -> None:
    given = [Batch.of([Event()])]
    asked = [request for topic in "abab" for request in requests(broker, topic, given, WALL)]
    assert commit(broker, asked) == [[b"ok", 1, 1], [b"ok", 1, 1], [b"ok", 2, 2], [b"ok", 2, 2]]


def test_an_error_of_redis_is_one_for_each(broker: Broker) -> None:
    broker.publish("t", [Event()], WALL)
    log = broker.keys.log(Log("t"))
    broker._connections.command("DEL", log)
    broker._connections.command("SET", log, "of another kind")
    asked = requests(broker, "t", [Batch.of([Event()])] * 3, WALL)
    answers = commit(broker, asked)
    assert all(isinstance(answer, PushError) and "WRONGTYPE" in answer.detail for answer in answers)
    assert len(set(map(id, answers))) == 3
