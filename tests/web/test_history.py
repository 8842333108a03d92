"""The history of a topic: filters, pages, formats."""

import csv
import json
import re
from dataclasses import replace
from urllib.parse import urljoin

import pytest

from pushsvc.errors import Unavailable
from pushsvc.event import Event, Limits
from pushsvc.settings import TopicSettings
from pushsvc.web import events, export
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


def link(answer, rel):
    """Return the URL of a linked page; None without one."""
    found = re.search(rf'<([^>]*)>; rel="{rel}"', answer.headers.get("Link", ""))
    return found and urljoin(URL, found[1])


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
            assert 'rel="next"' not in answer.headers.get("Link", "")
            break
        assert len(offsets(answer)) == limit
        url = link(answer, "next")
        assert answer.json["next"] in url
    assert seen == list(range(1, 26))


@pytest.mark.parametrize(
    "query",
    ["?last=0", "?last=5&limit=5", "?last=5&order=desc", "?after=x&before=y", "?before=xyz", "?order=up",
     "?where=rating", "?limit=0", "?limit=10001", "?limit=x", "?since=yesterday", "?since=1700000000", "?after=xyz",
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


def flat(pages):
    return [offset for page in pages for offset in page]


def walk(client, url, rel):
    """Return the offsets of a page and of all that follow in one direction, page by page."""
    pages = []
    while url is not None:
        answer = client.get(url)
        pages.append(offsets(answer))
        url = link(answer, rel)
        assert answer.json.get(rel) is None or answer.json[rel] in url
    return pages


@pytest.mark.parametrize("limit", [1, 7, 10, 25, 26])
@pytest.mark.parametrize(("query", "expected"), [("", range(1, 26)), ("type=order&", range(2, 26, 2)), ("key=x&", [])])
def test_pages_lead_in_both_directions(filled, limit, query, expected):
    expected, back = list(expected), list(expected)[::-1]
    url = f"{URL}?{query}limit={limit}"
    assert flat(walk(filled, url, "next")) == expected
    assert flat(walk(filled, f"{url}&order=desc", "next")) == back
    if not expected:
        return
    for order, wanted in (("asc", expected), ("desc", back)):
        first = filled.get(f"{url}&order={order}")
        assert link(first, "prev") is None or order == "asc"
        if (following := link(first, "next")) is not None:
            second = filled.get(following)
            assert offsets(second) == wanted[limit : 2 * limit]
            assert offsets(filled.get(link(second, "prev"))) == wanted[:limit]
            last = walk(filled, following, "next")
            assert offsets(first) + flat(last) == wanted


def test_last_events_come_oldest_first(filled):
    answer = filled.get(f"{URL}?last=3")
    assert offsets(answer) == [23, 24, 25]
    assert (link(answer, "next"), answer.json["next"]) == (None, None)
    assert offsets(filled.get(link(answer, "prev"))) == [20, 21, 22]
    assert offsets(filled.get(f"{URL}?last=2&type=order")) == [22, 24]
    assert offsets(filled.get(f"{URL}?last=100")) == list(range(1, 26))
    table = filled.get(f"{URL}.csv?last=2").text.splitlines()
    assert [line.partition(",")[0] for line in table] == ["$offset", "24", "25"]


def test_what_comes_after_the_newest_page_is_linked_once_it_was_reached_from_below(filled):
    newest = filled.get(f"{URL}?limit=5&order=desc")
    assert offsets(newest) == [25, 24, 23, 22, 21]
    older = filled.get(link(newest, "next"))
    filled.post(URL, json=[{"n": 26}, {"n": 27}])
    again = filled.get(link(older, "prev"))
    assert offsets(again) == [25, 24, 23, 22, 21]
    assert offsets(filled.get(link(again, "prev"))) == [27, 26]


def test_pages_backwards_end_at_the_scan_limit_and_go_on(app, filled):
    client = client_of(events, replace(context_of(app), scan=ScanLimits(bytes=100)))
    pages = walk(client, f"{URL}?order=desc", "next")
    assert len(pages) == 3
    assert flat(pages) == list(range(25, 0, -1))
    assert flat(walk(client, f"{URL}?order=desc&key=nobody", "next")) == []


def test_a_trimmed_log_ends_at_its_first_event(filled, broker):
    broker.delete("feedback")
    assert walk(filled, f"{URL}?order=desc", "next") == [[]]
    filled.post(URL, json=[{"n": 1}])
    assert walk(filled, f"{URL}?last=10", "prev") == [[26]]


@pytest.fixture
def piecemeal(monkeypatch):
    """Exports are read in pieces of four events."""
    monkeypatch.setattr(export, "_PIECE", 4)


def test_an_export_has_all_events_in_pieces(filled, piecemeal):
    lines = filled.get(f"{URL}.ndjson?limit=all").text.splitlines()
    assert [json.loads(line)["$offset"] for line in lines] == list(range(1, 26))
    filtered = filled.get(f"{URL}?limit=all&format=ndjson&key=dish-0&where=rating<2").text.splitlines()
    assert [json.loads(line)["$offset"] for line in filtered] == [1, 7, 16, 22]
    assert filled.get("/v1/topics/nothing/events.ndjson?limit=all").text == ""


def test_an_exported_table_names_the_fields_of_all_events(filled, piecemeal):
    filled.post(URL, json=[{"late": "=1"}])
    table = list(csv.DictReader(filled.get(f"{URL}.csv?limit=all&formulas=escape").text.splitlines()))
    assert [int(row["$offset"]) for row in table] == list(range(1, 27))
    assert (table[0]["late"], table[-1]["late"], table[3]["note"]) == ("", "'=1", "n3")
    assert filled.get("/v1/topics/nothing/events.csv?limit=all").text == "$offset,time,type,id,key\n"


def test_an_export_ends_where_the_log_ended_at_its_begin(app, filled, piecemeal):
    answer = filled.get(f"{URL}.ndjson?limit=all", buffered=False)
    pieces = answer.iter_encoded()
    first = next(pieces)
    filled.post(URL, json=[{"n": 1}])
    assert len((first + b"".join(pieces)).splitlines()) == 25


def test_an_export_is_cut_if_events_were_trimmed_before_they_were_read(filled, broker, piecemeal):
    pieces = filled.get(f"{URL}.ndjson?limit=all", buffered=False).iter_encoded()
    next(pieces)
    broker.publish("feedback", [Event(data={"n": 1})], TopicSettings(retention=5, windows=()))
    with pytest.raises(Unavailable, match="trimmed before they were read"):
        list(pieces)


@pytest.mark.parametrize("query", ["limit=all", "limit=all&format=csv&order=desc", "limit=all&format=csv&after=x"])
def test_what_an_export_cannot_do_is_named(filled, query):
    assert filled.get(f"{URL}?{query}").status_code == 400


def test_a_table_with_too_many_columns_is_refused_before_it_begins(app, filled):
    client = client_of(events, replace(context_of(app), limits=Limits(names=6)))
    refused = client.get(f"{URL}.csv?limit=all")
    assert (refused.status_code, "more than 6 columns" in refused.json["detail"]) == (400, True)
