"""Topics whose setting ``windows`` is empty: they have events and no statistics."""

import json
import os

import pytest

from pushsvc.broker.keys import Log
from support.stack import Stack, client_of
from support.waiting import until

PLAIN = "user.1"


@pytest.fixture(scope="module")
def events_only(redis_url, tmp_path_factory):
    with Stack(redis_url, f"test-{os.getpid()}-events-only:", tmp_path_factory.mktemp("events-only")) as stack:
        stack.configure('[topics."user.*"]\nwindows = []\nclock = "event"\n')
        stack.start_aggregator()
        stack.start_web()
        yield stack


def refusal(answer):
    assert answer.status == 404, answer.body
    problem = answer.json()
    assert problem["type"] == "urn:pushsvc:problem:no-statistics"
    assert answer.headers["Content-Type"] == "application/problem+json"
    return problem["detail"]


@pytest.mark.parametrize("query", ["", "?window=1m", "?window=*", "?at_least=1", "?top=3"])
@pytest.mark.parametrize("media_type", ["application/json", "text/csv", "text/event-stream"])
def test_statistics_of_a_topic_without_windows_are_a_404_that_names_the_setting(events_only, query, media_type):
    answer = events_only.get(f"/v1/topics/{PLAIN}/stats{query}", Accept=media_type)
    assert refusal(answer) == "user.1 has events only: the setting windows of this topic is []"


def test_events_of_a_topic_without_windows_are_stored_streamed_and_paged(events_only):
    path = f"/v1/topics/{PLAIN}/events"
    with events_only.stream(path) as stream:
        for number in range(3):
            events = [{"n": number, "time": time} for time in ("1990-01-01T00:00:00Z", "2020-01-01T00:00:00Z")]
            receipt = events_only.post(PLAIN, events).json()
            assert (receipt["accepted"], receipt["late"]) == (2, 0)
        found = [stream.frame()[1] for _ in range(6)]
        assert [event["n"] for event in found] == [0, 0, 1, 1, 2, 2]
        cursor = stream.decoder.last_id
    events_only.post(PLAIN, {"n": 3})
    with events_only.stream(path, Last_Event_ID=cursor) as stream:
        assert stream.frame()[1]["n"] == 3
    page = events_only.get(f"{path}?where=n>1", Accept="application/x-ndjson").body
    assert [json.loads(line)["n"] for line in page.splitlines()] == [2, 2, 3]
    about = events_only.get(f"/v1/topics/{PLAIN}").json()
    assert (about["exists"], about["last_offset"], about["windows"], about["rates"]) == (True, 7, [], {})


def test_a_pattern_over_statistics_leaves_out_topics_without_windows(events_only):
    for topic in (PLAIN, "shop.1"):
        events_only.post(topic, {"n": 1})
    with events_only.stream("/v1/stream?events=user.>&stats=>&window=*") as stream:
        events_only.post("user.2", {"n": 5})
        events_only.post("shop.2", {"n": 5})
        seen = set()
        while ("event", "user.2") not in seen or ("stats", "shop.2") not in seen:
            event, data = stream.frame()
            seen.add(("stats", data["topic"]) if event in ("snapshot", "update") else ("event", data["$topic"]))
    assert {topic for kind, topic in seen if kind == "stats"} == {"shop.1", "shop.2"}
    for query in (f"stats={PLAIN}", f"events=a&stats=shop.1&stats={PLAIN}", f"stats=>&stats={PLAIN}&window=1m"):
        assert refusal(events_only.get(f"/v1/stream?{query}"))


def test_a_topic_without_windows_has_no_statistics_in_redis(events_only, redis_url):
    partition = Log("counted").partition
    plain = [name for number in range(500) if Log(name := f"user.{number}").partition == partition]
    for topic in plain:
        events_only.post(topic, {"n": 1})
    # The owner of the partition reads what it was notified of before.
    offset = events_only.post("counted", {"n": 1}).json()["last_offset"]
    until(lambda: events_only.stats("counted")["offset"] == offset)
    names = {key.decode() for key in client_of(redis_url).scan_iter(f"{events_only.prefix}*") if b"user." in key}
    assert {f"log:{topic}" for topic in plain} <= {name.partition("}:")[2] for name in names}
    assert not [name for name in names if "$stats" in name]
    listed = {topic["topic"]: topic["windows"] for topic in json.loads(events_only.get("/v1/topics").body)["topics"]}
    assert listed[plain[0]] == []
    assert listed["counted"] == ["1m", "5m", "15m"]


def test_a_topic_that_had_windows_keeps_its_events_when_they_are_switched_off(own_server):
    offset = own_server.post("shop", {"n": 1}).json()["last_offset"]
    assert own_server.stats("shop", f"?at_least={offset}")["offset"] == offset
    own_server.configure('[topics."shop"]\nwindows = []\n')
    own_server.stop("aggregator")
    own_server.start_aggregator()
    own_server.restart_web()
    assert refusal(own_server.get("/v1/topics/shop/stats"))
    assert own_server.post("shop", {"n": 2}).json()["last_offset"] == 2
    assert own_server.request("DELETE", "/v1/topics/shop").status == 204
