"""A request repeated with its Idempotency-Key gets the first answer; its events are stored and counted once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from pushsvc.broker.broker import Broker
from pushsvc.broker.keys import Log
from pushsvc.broker.limits import BrokerLimits
from pushsvc.web.app import create_app
from pushsvc.web.context import Context
from support.metrics import metric
from support.proxy import Proxy
from support.waiting import until

CHUNK_EVENTS = BrokerLimits().chunk_events


URL = "/v1/topics/orders/events"
NDJSON = "application/x-ndjson"


@pytest.fixture
def client(broker: Broker) -> FlaskClient:
    return create_app(broker).test_client()


def post(client: FlaskClient, body: Any, key: str = "k", media_type: str = NDJSON, query: str = "") -> TestResponse:
    data = body if isinstance(body, str) else "\n".join(map(json.dumps, body))
    return client.post(URL + query, data=data, content_type=media_type, headers={"Idempotency-Key": key})


def stored(broker: Broker) -> list[Any]:
    log = Log("orders")
    found = broker.read(log.partition, {log: 0}).logs[log]
    return [event.data["n"] for entry in found.entries for event in entry.events]


def test_a_repeated_request_is_stored_once_and_gets_the_first_answer(client: FlaskClient, broker: Broker) -> None:
    names = ("pushsvc_events_accepted_total", "pushsvc_publish_repeated_total")
    before = [metric(name) for name in names]
    first = post(client, [{"n": 1}, {"n": 2}])
    post(client, [{"n": 3}], key="another")
    again = post(client, [{"n": 1}, {"n": 2}])
    assert (first.status_code, first.json["last_offset"]) == (202, 2)
    assert (again.status_code, again.data) == (202, first.data)
    assert stored(broker) == [1, 2, 3]
    assert [metric(name) - then for name, then in zip(names, before, strict=True)] == [3, 1]


def test_each_topic_has_its_own_keys(client: FlaskClient) -> None:
    post(client, [{"n": 1}])
    other = client.post("/v1/topics/other/events", json={"n": 9}, headers={"Idempotency-Key": "k"})
    assert (other.status_code, other.json["accepted"]) == (202, 1)


@pytest.mark.parametrize(
    ("body", "media_type", "query"),
    [
        ('{"n":2}', NDJSON, ""),
        ('{"n":1}', "application/json", ""),
        ('{"n":1}', NDJSON, "?on_error=skip"),
    ],
)
def test_the_same_key_with_another_request_is_refused_and_stores_nothing(
    client: FlaskClient, broker: Broker, body: str, media_type: str, query: str
) -> None:
    post(client, '{"n":1}')
    answer = post(client, body, media_type=media_type, query=query)
    assert (answer.status_code, answer.json["type"]) == (422, "urn:pushsvc:problem:idempotency-key-reused")
    assert "'k'" in answer.json["detail"]
    assert stored(broker) == [1]


@pytest.mark.parametrize("key", ["", "x" * 201, "tab\there", "\u00e9"])
def test_an_invalid_key_is_refused_by_name(client: FlaskClient, broker: Broker, key: str) -> None:
    answer = post(client, [{"n": 1}], key=key)
    assert answer.status_code == 400
    assert "Idempotency-Key" in answer.json["detail"]
    assert stored(broker) == []


def test_the_longest_key_is_accepted(client: FlaskClient) -> None:
    assert [post(client, [{"n": 1}], key="a b" * 66 + "cd").json["last_offset"] for _ in range(2)] == [1, 1]


def test_an_id_equal_to_a_key_is_not_a_repetition(client: FlaskClient, broker: Broker) -> None:
    post(client, [{"n": 1}])
    assert post(client, [{"id": "k", "n": 2}], key="other").json["accepted"] == 1
    assert stored(broker) == [1, 2]


def test_a_repeated_request_reports_the_skipped_events_again(client: FlaskClient, broker: Broker) -> None:
    body = '{"n":1}\n{"key":[]}\n{"n":2}'
    first, again = (post(client, body, query="?on_error=skip") for _ in range(2))
    assert first.json["errors"][0]["line"] == 2
    assert again.data == first.data
    assert stored(broker) == [1, 2]
    assert broker.metadata([Log("orders")])[0]["refused"] == "1"


def test_a_repeated_request_is_validated_with_the_time_of_the_first(
    client: FlaskClient, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer of one machine is lost. The request is repeated on another machine, whose clock is behind."""
    time = 1_790_000_000_000
    for query in ("", "?on_error=skip"):
        monkeypatch.setattr(Context, "now", staticmethod(lambda: time))
        first = post(client, [{"n": 1, "time": time}], key=f"k{query}", query=query)
        monkeypatch.setattr(Context, "now", staticmethod(lambda: time - 60_000))
        again = post(client, [{"n": 1, "time": time}], key=f"k{query}", query=query)
        assert first.json["late"] == 1
        assert (again.status_code, again.data) == (202, first.data)
        assert post(client, [{"n": 1, "time": time}], key="new", query=query).status_code == 400
    assert stored(broker) == [1, 1]


def test_a_repeated_request_reports_the_duplicates_again(client: FlaskClient, broker: Broker) -> None:
    post(client, [{"id": "a", "n": 1}], key="before")
    mixed = [{"id": "a", "n": 1}, {"id": "b", "n": 2}, {"id": "b", "n": 3}]
    first, again = (post(client, mixed) for _ in range(2))
    assert (first.json["accepted"], first.json["duplicates"], first.json["first_offset"]) == (1, 2, 1)
    assert again.data == first.data
    known = [post(client, mixed, key="all known") for _ in range(2)]
    assert (known[0].json["accepted"], known[0].json["duplicates"], known[0].json["last_offset"]) == (0, 3, 2)
    assert known[1].data == known[0].data
    assert stored(broker) == [1, 2]


def test_a_request_of_several_log_entries_is_stored_once(client: FlaskClient, broker: Broker) -> None:
    batch = [{"n": number} for number in range(2 * CHUNK_EVENTS + 1)]
    first, again = (post(client, batch) for _ in range(2))
    assert (first.json["first_offset"], first.json["last_offset"]) == (1, 2 * CHUNK_EVENTS + 1)
    assert again.data == first.data
    assert len(stored(broker)) == 2 * CHUNK_EVENTS + 1


def test_a_request_repeated_after_a_lost_answer_is_stored_once(proxy: Proxy, prefix: str, broker: Broker) -> None:
    """Redis executes the command, then the connection breaks."""
    through = Broker(proxy.url, prefix)
    client = create_app(through).test_client()
    post(client, [{"n": 0}], key="connects")

    def cut(data: bytes) -> None:
        until(lambda: len(stored(broker)) == 3)

    proxy.downward = cut
    lost = post(client, [{"n": 1}, {"n": 2}])
    assert (lost.status_code, lost.json["type"]) == (503, "urn:pushsvc:problem:outcome-unknown")
    proxy.downward = lambda data: data
    again = post(client, [{"n": 1}, {"n": 2}])
    assert (again.status_code, again.json["accepted"], again.json["first_offset"]) == (202, 2, 2)
    assert stored(broker) == [0, 1, 2]
    through.close()


@pytest.mark.parametrize("ids", [False, True])
def test_concurrent_equal_requests_are_stored_once(redis_url: str, prefix: str, broker: Broker, ids: bool) -> None:
    """The requests use several connections; with ``ids`` one of their events is a duplicate."""
    broker_clients = [create_app(one).test_client() for one in (broker, Broker(redis_url, prefix))]
    if ids:
        post(broker_clients[0], [{"id": "a", "n": 0}], key="before")
    batch = [{"id": "a", "n": 0}, {"n": 1}] if ids else [{"n": 0}, {"n": 1}]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda number: post(broker_clients[number % 2], batch), range(16)))
    assert {answer.data for answer in answers} == {answers[0].data}
    assert (answers[0].status_code, answers[0].json["accepted"]) == (202, 1 if ids else 2)
    assert stored(broker) == [0, 1]


@pytest.fixture
def forgetful(redis_url: str, prefix: str) -> Iterator[FlaskClient]:
    """A client whose broker remembers ids for no time."""
    broker = Broker(redis_url, prefix, limits=BrokerLimits(ids_window=-1))
    yield create_app(broker).test_client()
    broker.close()


def test_a_key_expires(client: FlaskClient, forgetful: FlaskClient, broker: Broker) -> None:
    post(client, [{"n": 1}])
    post(forgetful, [{"n": 2}], key="rotates the hashes")
    assert post(client, [{"n": 1}]).json["first_offset"] == 3
    assert stored(broker) == [1, 2, 1]


def test_a_key_survives_one_rotation_of_the_id_hashes(
    client: FlaskClient, broker: Broker, redis_url: str, prefix: str
) -> None:
    rotating = Broker(redis_url, prefix, limits=BrokerLimits(max_ids=0))
    post(client, [{"n": 1}])
    for number, offset in ((2, 1), (3, 4)):
        assert post(create_app(rotating).test_client(), [{"n": number}], key=f"rotation {number}").status_code == 202
        assert post(client, [{"n": 1}]).json["first_offset"] == offset
    assert stored(broker) == [1, 2, 3, 1]
    rotating.close()


def test_the_keys_of_a_deleted_topic_are_forgotten(client: FlaskClient, broker: Broker) -> None:
    post(client, [{"n": 1}])
    assert client.delete("/v1/topics/orders").status_code == 204
    assert post(client, [{"n": 1}]).json["first_offset"] == 2
    assert stored(broker) == [1]


def test_a_topic_deleted_during_a_request_remembers_no_key(
    client: FlaskClient, broker: Broker, proxy: Proxy, prefix: str
) -> None:
    """The first call finds only duplicates. Then the topic is deleted, so the key has no topic to be stored with."""
    post(client, [{"id": "a", "n": 1}], key="before")
    deleted: list[bool] = []

    def delete_first(reply: bytes) -> bytes:
        if b"$5\r\nknown\r\n" in reply:
            deleted.append(broker.delete("orders"))
        return reply

    proxy.downward = delete_first
    through = Broker(proxy.url, prefix)
    answer = post(create_app(through).test_client(), [{"id": "a", "n": 1}])
    through.close()
    assert deleted == [True]
    assert (answer.json["accepted"], answer.json["duplicates"]) == (0, 1)
    assert broker.topics() == {}
    assert post(client, [{"id": "a", "n": 1}]).json["accepted"] == 1
    assert stored(broker) == [1]
