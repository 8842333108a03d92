"""The history of a topic: filters, pages, formats."""

import json
from dataclasses import replace
from urllib.parse import urljoin

import pytest

from pushsvc.web import events
from pushsvc.web.app import context_of, create_app
from pushsvc.web.history import ScanLimits
from support.web_app import client_of

URL = "/v1/topics/feedback/events"


@pytest.fixture
def app(broker):
    return create_app(broker)


@pytest.fixture
def client(app):
    return app.test_client()


@pytest.fixture
def filled(client):
    events = [
        {"time": 1_700_000_000_000 + n * 1000, "key": f"dish-{n % 3}", "type": "order" if n % 2 else "rating",
         "rating": n % 5, "note": f"n{n}"}
        for n in range(25)
    ]  # fmt: skip
    for start in range(0, 25, 10):
        assert client.post(URL, json=events[start : start + 10]).status_code == 202
    return client


def offsets(answer):
    assert answer.status_code == 200, answer.data
    return [event["$offset"] for event in answer.json["events"]]


FILTERS = [
    ("", list(range(1, 26))),
    ("?type=order&key=dish-0", [4, 10, 16, 22]),
    ("?where=rating<1", [1, 6, 11, 16, 21]),
    ("?where=rating>=3&where=rating!=4", [4, 9, 14, 19, 24]),
    ("?where=note=n7", [8]),
    ('?where=note="n7"', [8]),
    ("?where=absent=1", []),
    ("?where=absent<1", []),
    ("?since=1700000020000", [21, 22, 23, 24, 25]),
    ("?since=2023-11-14T22:13:20Z&until=2023-11-14T22:13:22%2B00:00", [1, 2]),
]


@pytest.mark.parametrize(("query", "expected"), FILTERS)
def test_a_filter_selects_events(filled, query, expected):
    assert offsets(filled.get(URL + query)) == expected


@pytest.mark.parametrize("limit", [1, 7, 10, 25, 26])
def test_pages_continue_without_gap_or_repetition(filled, limit):
    seen, url = [], f"{URL}?limit={limit}"
    while True:
        answer = filled.get(url)
        seen += offsets(answer)
        if answer.json["next"] is None:
            assert "Link" not in answer.headers
            break
        assert len(offsets(answer)) == limit
        url = urljoin(URL, answer.headers["Link"].split(">")[0].removeprefix("<"))
        assert answer.json["next"] in url
    assert seen == list(range(1, 26))


@pytest.mark.parametrize(
    "query",
    ["?where=rating", "?limit=0", "?limit=10001", "?limit=x", "?since=yesterday", "?since=1700000000", "?after=xyz",
     "?where=a<true", "?nonsense=1", "?format=xml", "?last_event_id=earliest", "?names=off", "?format=sse&limit=3"],
)  # fmt: skip
def test_a_bad_parameter_is_named(filled, query):
    answer = filled.get(URL + query)
    assert answer.status_code == 400
    assert answer.json["parameter"] in query


def test_each_format_has_its_media_type_and_shape(filled):
    rows = filled.get(URL + "?limit=2", headers={"Accept": "application/x-ndjson"})
    assert [json.loads(line)["$offset"] for line in rows.text.splitlines()] == [1, 2]
    assert rows.headers["Vary"] == "Accept"
    table = filled.get(URL + "?limit=2&format=csv", headers={"Accept": "application/json"})
    assert table.content_type == "text/csv; charset=utf-8"
    assert table.text.splitlines() == [
        "$offset,time,type,id,key,note,rating",
        "1,2023-11-14T22:13:20.000Z,rating,,dish-0,n0,0",
        "2,2023-11-14T22:13:21.000Z,order,,dish-1,n1,1",
    ]
    assert filled.get(URL, headers={"Accept": "image/png"}).status_code == 406


def test_an_unknown_topic_is_empty_not_an_error(client):
    assert client.get(URL).json == {"events": [], "next": None}
    assert client.get("/v1/topics/feedback").json["exists"] is False
    stats = client.get("/v1/topics/feedback/stats").json
    assert (stats["exists"], stats["data"], stats["stale"]) == (False, [], True)
    every = client.get("/v1/topics/feedback/stats?window=*").json
    assert [frame["window"] for frame in every["windows"]] == ["1m", "5m", "15m"]
    assert client.get("/v1/topics/feedback/stats?window=2m").status_code == 400


def test_a_page_ends_at_the_scan_limit(app, filled):
    client = client_of(events, replace(context_of(app), scan=ScanLimits(bytes=100)))
    first = client.get(URL + "?key=nobody").json
    assert first["events"] == []
    found, cursor = [], first["next"]
    while cursor:
        page = client.get(f"{URL}?after={cursor}").json
        found += [event["$offset"] for event in page["events"]]
        cursor = page["next"]
    assert found == list(range(11, 26))
