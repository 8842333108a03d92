"""URLs that choose the format by a suffix: what they answer, and what pandas and requests make of them."""

from __future__ import annotations

from urllib.parse import urljoin

import pandas
import pytest
import requests

from pushsvc.web.app import create_app
from support.owner import Owner
from support.stack import Stack
from support.waiting import until

EVENTS = [{"key": "pizza", "rating": 4}, {"key": "soup", "rating": 5}, {"key": "pizza", "rating": 1}]
URLS = {
    "/v1/topics/a.csv/events.csv": "text/csv",
    "/v1/topics/a.csv/events.ndjson": "application/x-ndjson",
    "/v1/topics/a.csv/events.json": "application/json",
    "/v1/topics/a.csv/stats.csv": "text/csv",
    "/v1/topics/a.csv/stats.json": "application/json",
    "/v1/topics.json": "application/json",
}


@pytest.fixture
def client(broker):
    client = create_app(broker).test_client()
    assert client.post("/v1/topics/a.csv/events", json=EVENTS).status_code == 202
    Owner(broker, ["a.csv"]).step()
    return client


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("accept", ["*/*", "text/event-stream", "application/json", "image/png", None])
def test_the_suffix_wins_over_accept_and_the_answer_does_not_vary_by_it(client, url, accept):
    plain, suffix = url.rsplit(".", 1)
    answer = client.get(url, headers={"Accept": accept} if accept else {})
    assert (answer.status_code, answer.mimetype) == (200, URLS[url])
    assert "Vary" not in answer.headers
    asked = client.get(f"{plain}?format={suffix}")
    assert asked.headers["Vary"] == "Accept"
    assert asked.headers.get("ETag") == answer.headers.get("ETag")
    assert len(asked.data) == len(answer.data)
    assert client.get(f"{url}?format={suffix}").status_code == 200
    head = client.head(url)
    assert (head.status_code, head.data, head.mimetype) == (200, b"", URLS[url])


@pytest.mark.parametrize("url", URLS)
def test_a_format_that_contradicts_the_suffix_is_named(client, url):
    for other in {"sse", "json", "csv", "xml", ""} - {url.rsplit(".", 1)[1]}:
        answer = client.get(f"{url}?format={other}")
        assert (answer.status_code, answer.json["parameter"]) == (400, "format")
        assert f"contradicts the suffix .{url.rsplit('.', 1)[1]}" in answer.json["detail"]


@pytest.mark.parametrize("query", ["last_event_id=earliest", "names=off", "heartbeat=event", "every=1s", "changes=1"])
def test_parameters_of_streams_are_refused(client, query):
    for url in URLS:
        answer = client.get(f"{url}?{query}")
        assert (answer.status_code, answer.json["parameter"]) == (400, query.partition("=")[0]), url


@pytest.mark.parametrize(
    "path", ["a/events.sse", "a/events.xml", "a/events.", "a/events.CSV", "a/stats.ndjson", "a/events.csv.csv"]
)
def test_an_unknown_suffix_is_not_found(client, path):
    answer = client.get(f"/v1/topics/{path}")
    assert (answer.status_code, answer.mimetype) == (404, "application/problem+json")


def test_only_the_last_segment_takes_a_suffix(client):
    assert client.get("/v1/topics/a.csv").json["topic"] == "a.csv"
    assert client.get("/v1/topics/a.csv/events").json["events"][0]["$topic"] == "a.csv"
    assert client.get("/v1/topics/events.csv").json == client.get("/v1/topics/events.csv").json | {"exists": False}
    assert client.get("/v1/topics/a b/events.csv").status_code == 400


def test_a_url_with_a_suffix_is_read_only(client):
    for url in URLS:
        answer = client.post(url, json=EVENTS)
        assert answer.status_code == 405, url
        assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}
    assert client.get("/v1/topics/a.csv").json["last_offset"] == len(EVENTS)


def test_an_etag_belongs_to_its_format(client):
    tags = {url: client.get(url).headers["ETag"] for url in URLS if "stats" in url}
    assert len(set(tags.values())) == len(tags)
    for url, tag in tags.items():
        for other in tags:
            assert client.get(other, headers={"If-None-Match": tag}).status_code == (304 if other == url else 200)


def test_pandas_reads_the_urls(server: Stack, topic: str) -> None:
    base = f"{server.url}/v1/topics/{topic}"
    assert server.post(topic, EVENTS).status == 202
    until(lambda: server.stats(topic)["offset"] == len(EVENTS))

    events = pandas.read_csv(f"{base}/events.csv")
    assert list(events["$offset"]) == [1, 2, 3]
    assert list(events["rating"]) == [4, 5, 1]
    lines = pandas.read_json(f"{base}/events.ndjson?key=pizza", lines=True)
    assert list(lines["rating"]) == [4, 1]

    rows = pandas.read_csv(f"{base}/stats.csv")
    assert rows.query("scope == 'key' and field == 'rating'").set_index("key")["sum"].to_dict() == {
        "pizza": 5,
        "soup": 5,
    }
    topics = pandas.DataFrame(requests.get(f"{server.url}/v1/topics.json", timeout=60).json()["topics"])
    assert topic in set(topics["topic"])


def test_a_stream_that_the_server_remembers_does_not_change_the_answer(shared_server: Stack, topic: str) -> None:
    for _ in range(2):
        with shared_server.stream(f"/v1/topics/{topic}/events") as stream:
            assert stream.read()
        answer = shared_server.get(f"/v1/topics/{topic}/events.json", Accept="text/event-stream")
        assert answer.json() == {"events": [], "next": None}


@pytest.mark.parametrize("mount", ["", "/mounted"])
@pytest.mark.parametrize("resource", ["events", "events.json", "events.csv"])
def test_links_lead_through_all_pages_under_any_prefix(
    iterated_server: Stack, topic: str, mount: str, resource: str
) -> None:
    iterated_server.post(topic, EVENTS)
    first = f"{iterated_server.url}{mount}/v1/topics/{topic}/{resource}"
    url, seen = f"{first}?limit=1&where=rating%3C5&where=rating!=7&key=pizza", []
    while True:
        answer = requests.get(url, timeout=60)
        assert answer.status_code == 200, answer.text
        seen.append(answer.text)
        if "next" not in answer.links:
            break
        assert answer.links["next"]["url"].startswith("?")
        url = urljoin(answer.url, answer.links["next"]["url"])
        assert url.startswith(f"{first}?limit=1&where=rating%3C5&where=rating%21%3D7&key=pizza&after=")
    assert ['"rating":4' in seen[0] or ",4" in seen[0], '"rating":1' in seen[1] or ",1\n" in seen[1]] == [True, True]
