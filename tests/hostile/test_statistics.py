"""What an answer with the statistics of a large topic may cost: slices, a seat, and counted memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hostile.attacks import wide_statistics
from pushsvc.broker.broker import Broker
from pushsvc.broker.keys import Log
from pushsvc.frame_text import ROWS_A_SLICE
from pushsvc.web import stats, topics
from pushsvc.web.app import context_of, create_app
from pushsvc.web.context import Context
from pushsvc.web.long_requests import CLIENT, LongLimits, LongRequests, Requester
from pushsvc.web.memory.budget import MemoryBudget
from pushsvc.web.windows import wait_until_counted
from support.owner import Owner
from support.stack import Stack
from support.turns import counted_turns
from support.web_app import client_of

TOPIC = "wide"
URL = f"/v1/topics/{TOPIC}/stats?window=*"
KEYS, FIELDS, WINDOWS = 200, 9, 3
ROWS = (KEYS + 1) * (FIELDS + 1) * WINDOWS


@pytest.fixture
def context(broker: Broker) -> Context:
    """A context of a topic with large statistics, whose long requests pause at every step."""
    app = create_app(broker)
    events = [{"key": f"key {key}", **{f"f{n}": key for n in range(FIELDS)}} for key in range(KEYS)]
    assert app.test_client().post(f"/v1/topics/{TOPIC}/events", json=events).status_code == 202
    Owner(broker, [TOPIC]).step()
    return replace(context_of(app), long=LongRequests(LongLimits(slice=0.0, large_statistics=10_000)))


@pytest.mark.parametrize("query", ["", "&format=csv", "&shape=records", "&top=10", "&key=key 7"])
def test_large_statistics_are_answered_in_slices(context: Context, query: str) -> None:
    client = client_of(stats, context)
    with counted_turns() as turns:
        answer = client.get(URL + query)
    assert answer.status_code == 200
    assert context.long.slices >= ROWS // ROWS_A_SLICE
    assert turns[0] >= ROWS // ROWS_A_SLICE, "others had no turn of the loop"
    assert context.long.statistics.free == 1


def test_the_rates_of_a_large_topic_are_read_in_slices(context: Context) -> None:
    """``GET /v1/topics/{topic}`` parsed all rows of all windows at once: 83 bytes held the loop for 0.3 s."""
    client = client_of(topics, context)
    with counted_turns() as turns:
        answer = client.get(f"/v1/topics/{TOPIC}")
    assert all(answer.json["rates"].values())
    assert context.long.slices >= ROWS // ROWS_A_SLICE
    assert turns[0] >= ROWS // ROWS_A_SLICE, "others had no turn of the loop"
    assert context.long.statistics.free == 1


def test_small_statistics_need_no_seat(context: Context) -> None:
    context = replace(context, long=LongRequests(LongLimits(slice=0.0, large_statistics=10_000_000)))
    with context.long.statistics.seat("10.0.0.1"):
        answer = client_of(stats, context).get(URL)
    assert sum(len(window["data"]) for window in answer.json["windows"]) == ROWS
    assert context.long.slices == 0


def test_an_answer_ends_when_its_client_is_gone(context: Context) -> None:
    asked = 0

    def gone() -> bool:
        nonlocal asked
        asked += 1
        return asked > 5

    answer = client_of(stats, context).get(URL, environ_overrides={CLIENT: Requester("10.0.0.1", gone)})
    assert answer.status_code == 499
    assert context.long.slices <= 5
    assert context.long.statistics.free == 1


def test_an_answer_in_the_making_counts_in_the_memory(context: Context) -> None:
    large = client_of(stats, context).get(URL)
    assert len(large.data) > 300_000
    context = replace(context, memory=MemoryBudget(300_000, 300_000))
    answer = client_of(stats, context).get(URL)
    assert (answer.status_code, answer.json["type"]) == (503, "urn:pushsvc:problem:memory-full")
    assert (context.memory.held, context.long.statistics.free) == (0, 1)


def test_the_answer_is_that_of_its_tag(context: Context) -> None:
    client = client_of(stats, context)
    answer = client.get(URL)
    again = client.get(URL, headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")


def test_the_attack_gets_what_it_asks_for(shared_server: Stack) -> None:
    answers = wide_statistics.attack(shared_server.url, keys=300, fields=5, requests=2)
    assert [answer.status for answer in answers] == [200, 200, 200]
    for answer in answers[1:]:
        assert [len(window["data"]) for window in answer.json()["windows"]] == [301 * 6] * 3


def test_an_offset_that_never_comes_costs_few_looks(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """``at_least=`` looked every 20 ms: a request of 100 bytes cost 250 round trips to Redis."""
    looks: list[Log] = []
    metadata = broker.metadata
    monkeypatch.setattr(broker, "metadata", lambda logs: looks.extend(logs) or metadata(logs))
    wait_until_counted(broker, [Log("t", "1m")], 1_000, wait=2.0)
    assert 5 < len(looks) < 40
