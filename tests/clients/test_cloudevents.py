"""CloudEvents made by the ``cloudevents`` package and posted to a live server, in every mode."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from http.client import HTTPConnection
from typing import Any

import pytest
import requests
from cloudevents.core.bindings.http import HTTPMessage, to_binary_event, to_structured_event
from cloudevents.core.v03.event import CloudEvent as CloudEvent03
from cloudevents.core.v1.event import CloudEvent

from support.stack import Answer, Stack
from support.waiting import DEADLINE

WHEN = datetime(2026, 1, 1, 12, tzinfo=UTC)


def cloud_event(**attributes: Any) -> CloudEvent:
    given = {"id": "order-17", "source": "/shop", "type": "order.paid", "time": WHEN, **attributes}
    return CloudEvent(given, {"amount": 12.5, "items": ["soup"]})


def batch(event: CloudEvent) -> HTTPMessage:
    body = to_structured_event(event).body
    return HTTPMessage({"content-type": "application/cloudevents-batch+json"}, b"[" + body + b"]")


def post(server: Stack, topic: str, message: HTTPMessage, **headers: str) -> requests.Response:
    url = f"{server.url}/v1/topics/{topic}/events"
    return requests.post(url, message.body, headers=message.headers | headers, timeout=DEADLINE)


def stored(server: Stack, topic: str) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = server.get(f"/v1/topics/{topic}/events").json()["events"]
    return events


MODES = [to_binary_event, to_structured_event, batch]


@pytest.mark.parametrize("mode", MODES)
def test_an_event_keeps_its_attributes_and_is_stored_once(
    server: Stack, topic: str, mode: Callable[[CloudEvent], HTTPMessage]
) -> None:
    message = mode(cloud_event(subject="Käse & “50%”", shop="Zürich", datacontenttype="application/json"))
    first, again = (post(server, topic, message) for _ in range(2))
    assert (first.status_code, again.status_code) == (202, 202), first.text
    assert [answer.json()["accepted"] for answer in (first, again)] == [1, 0]
    assert again.json()["duplicates"] == 1
    (event,) = stored(server, topic)
    assert event == {
        "$topic": topic, "$offset": 1, "time": "2026-01-01T12:00:00.000Z", "type": "order.paid", "id": "order-17",
        "key": "Käse & “50%”", "source": "/shop", "shop": "Zürich", "amount": 12.5, "items": ["soup"],
    }  # fmt: skip


def test_an_event_that_comes_in_all_modes_is_stored_once(shared_server: Stack, topic: str) -> None:
    answers = [post(shared_server, topic, mode(cloud_event())).json() for mode in MODES]
    assert [(answer["accepted"], answer["duplicates"]) for answer in answers] == [(1, 0), (0, 1), (0, 1)]


def test_an_event_without_data_or_content_type_is_stored(server: Stack, topic: str) -> None:
    empty = CloudEvent({"id": "a", "source": "s", "type": "t"}, None)
    assert post(server, topic, to_binary_event(empty)).status_code == 202
    assert post(server, topic, to_binary_event(cloud_event())).status_code == 202
    assert [event["id"] for event in stored(server, topic)] == ["a", "order-17"]


def test_binary_events_take_part_in_idempotency_of_requests(shared_server: Stack, topic: str) -> None:
    """Two events with the same body and the same key are two requests: the headers belong to the fingerprint."""
    one, other = (to_binary_event(cloud_event(id=name)) for name in "ab")
    statuses = [
        post(shared_server, topic, message, **{"Idempotency-Key": "k"}).status_code for message in (one, one, other)
    ]
    assert statuses == [202, 202, 422]
    assert len(stored(shared_server, topic)) == 1


REFUSED = [
    ({"ce-id": None}, 400, "ce-id"),
    ({"ce-source": None}, 400, "ce-source"),
    ({"ce-type": None}, 400, "ce-type"),
    ({"ce-specversion": None}, 400, "ce-specversion"),
    ({"ce-specversion": "1.1"}, 400, "ce-specversion"),
    ({"ce-time": "noon"}, 400, "ce-time"),
    ({"ce-id": "%FF"}, 400, "ce-id"),
    ({"ce-id": "é".encode("latin-1").decode("latin-1")}, 400, "ce-id"),
    ({"ce-id": "x" * 20_000}, 400, "ce-id"),
    ({"ce-subject": "x" * 20_000}, 400, "ce-subject"),
    ({"ce-" + "x" * 1_000: "1"}, 400, "ce-xxx"),
    ({"content-type": "text/plain"}, 415, "Content-Type"),
    ({"content-type": "application/xml"}, 415, "Content-Type"),
    ({"content-type": "text/csv"}, 415, "Content-Type"),
]


@pytest.mark.parametrize(("changes", "status", "named"), REFUSED)
def test_a_bad_binary_event_is_refused_by_the_name_of_its_header(
    server: Stack, topic: str, changes: dict[str, str | None], status: int, named: str
) -> None:
    message = to_binary_event(cloud_event(datacontenttype="application/json"))
    headers = {name: value for name, value in (message.headers | changes).items() if value is not None}
    answer = post(server, topic, HTTPMessage(headers, message.body))
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/problem+json"), answer.text
    assert named in answer.json()["detail"]
    assert stored(server, topic) == []


@pytest.mark.parametrize("mode", MODES)
def test_an_event_of_another_version_is_refused(server: Stack, topic: str, mode: Callable[[Any], HTTPMessage]) -> None:
    old = CloudEvent03({"id": "a", "source": "s", "type": "t", "specversion": "0.3"}, {"n": 1})
    answer = post(server, topic, mode(old))
    assert (answer.status_code, answer.json()["errors"][0]["field"]) in [(400, "ce-specversion"), (400, "specversion")]
    assert stored(server, topic) == []


def send_raw(server: Stack, topic: str, headers: list[tuple[str, str]], body: bytes) -> Answer:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE)
    try:
        connection.putrequest("POST", f"/v1/topics/{topic}/events")
        for name, value in [*headers, ("Content-Length", str(len(body)))]:
            connection.putheader(name, value)
        connection.endheaders(body)
        response = connection.getresponse()
        return Answer(response.status, dict(response.getheaders()), response.read())
    finally:
        connection.close()


@pytest.mark.parametrize("repeated", ["ce-id", "CE-Subject", "ce-shop"])
def test_a_repeated_header_is_refused(shared_server: Stack, topic: str, repeated: str) -> None:
    message = to_binary_event(cloud_event(subject="pizza", shop="a"))
    answer = send_raw(shared_server, topic, [*message.headers.items(), (repeated, "other")], message.body)
    assert answer.status == 400
    assert f"{repeated.lower()} is repeated" in answer.json()["detail"]
    assert stored(shared_server, topic) == []


def test_a_head_of_headers_without_end_is_refused(shared_server: Stack, topic: str) -> None:
    message = to_binary_event(cloud_event())
    for extra in ([("ce-big", "x" * 40_000)], [(f"ce-x{n}", "1") for n in range(120)]):
        assert send_raw(shared_server, topic, [*message.headers.items(), *extra], message.body).status == 431
    assert stored(shared_server, topic) == []


def test_many_binary_events_on_one_connection_keep_their_ids(shared_server: Stack, topic: str) -> None:
    """Requests that differ in their ce- headers only are never taken for repetitions of each other."""
    with requests.Session() as session:
        for n in range(50):
            message = to_binary_event(cloud_event(id=f"e{n}", datacontenttype="application/json"))
            url = f"{shared_server.url}/v1/topics/{topic}/events"
            assert session.post(url, message.body, headers=message.headers, timeout=DEADLINE).json()["accepted"] == 1
    assert [event["id"] for event in stored(shared_server, topic)] == [f"e{n}" for n in range(50)]
