"""Series over HTTP: what they select, their formats, and the words for bad parameters."""

import csv
import io

import pytest

from pushsvc.event import Event
from pushsvc.settings import TopicRules, TopicSettings
from pushsvc.stats.window import Window
from pushsvc.web.app import create_app
from support.waiting import until

URL = "/v1/topics/flights/stats/series"
BEGIN = 1_700_000_100_000  # 22:15, a multiple of five minutes
WINDOWS = tuple(map(Window.parse, ("1m", "5m", "last 3")))
RULES = TopicRules(
    (
        ("flights", TopicSettings(windows=WINDOWS, clock="event", jump=True)),
        ("short", TopicSettings(windows=WINDOWS[:1], clock="event", jump=True, retention=20)),
        ("only", TopicSettings(windows=())),
        ("last", TopicSettings(windows=WINDOWS[2:])),
    )
)


@pytest.fixture
def client(broker):
    return create_app(broker, RULES).test_client()


@pytest.fixture
def filled(client):
    """Delays n of the keys a, b, Ü and c"d in turn, one every ten seconds."""
    keys = ("a", "b", "Ü", 'c"d')
    events = [{"time": BEGIN + n * 10_000, "key": keys[n % 4], "delay": n} for n in range(60)]
    for begin in range(0, 60, 7):
        assert client.post("/v1/topics/flights/events", json=events[begin : begin + 7]).status_code == 202
    return client


def asked(client, url=URL, **query):
    answer = client.get(url, query_string=query)
    assert answer.status_code == 200, answer.text
    return answer.json


def test_values_are_those_of_the_window_that_ends_at_each_time(filled):
    found = asked(filled, field="delay", stat="mean,count,max", step="1m")
    assert found["times"][:3] == [BEGIN + 60_000, BEGIN + 120_000, BEGIN + 180_000]
    assert {name: values[:2] for name, values in found["stats"].items()} == {
        "mean": [2.5, 8.5], "count": [6, 6], "max": [5.0, 11.0]
    }  # fmt: skip
    assert (found["topic"], found["window"], found["step"]) == ("flights", "1m", 60_000)
    assert (found["key"], found["field"], found["from"]) == (None, "delay", "2023-11-14T22:15:01.000Z")


@pytest.mark.parametrize(("key", "first"), [("a", 0), ("Ü", 2), ('c"d', 3)])
def test_key_selects_its_events(filled, key, first):
    found = asked(filled, key=key, field="delay", stat=["sum", "min"], step="5m", window="5m")
    assert found["stats"]["min"][0] == float(first)
    assert found["stats"]["sum"][0] == float(sum(range(first, 30, 4)))


def test_events_are_counted_without_a_field(filled):
    assert asked(filled, step="5m", window="5m")["stats"] == {"count": [30]}
    assert asked(filled, step="5m", window="5m", stat="rate")["stats"] == {"rate": [0.1]}


def test_since_and_until_limit_the_times(filled):
    found = asked(filled, since=BEGIN + 120_000, until="2023-11-14T22:19:00Z", step="1m")
    assert found["times"] == [BEGIN + 120_000, BEGIN + 180_000]
    assert asked(filled, since=BEGIN + 10**9)["times"] == []
    assert asked(filled, until=BEGIN - 10**9)["times"] == []


def test_step_is_chosen_for_a_few_hundred_values(filled):
    found = asked(filled)
    assert found["step"] == 2_000
    assert 290 <= len(found["times"]) <= 300


@pytest.mark.parametrize(
    ("fill", "expected"),
    [
        ("none", [None, 1.0, None, None, 4.0]),
        ("zero", [0.0, 1.0, 0.0, 0.0, 4.0]),
        ("last", [None, 1.0, 1.0, 1.0, 4.0]),
        ("linear", [None, 1.0, 2.0, 3.0, 4.0]),
    ],
)
def test_missing_values_are_filled_as_asked(client, fill, expected):
    events = [{"time": BEGIN + 1}, *[{"time": BEGIN + minute * 60_000 + 1, "x": minute} for minute in (1, 4)]]
    client.post("/v1/topics/flights/events", json=[*events, {"time": BEGIN + 300_000}])
    found = asked(client, field="x", stat="mean,count", step="1m", fill=fill)
    assert found["stats"]["mean"] == expected
    whole = {"none": None, "zero": 0, "last": None, "linear": None}[fill]
    assert found["stats"]["count"][0] == whole


def test_log_that_was_trimmed_begins_after_a_whole_window(client, broker):
    for n in range(100):
        broker.publish("short", [Event(time=BEGIN + n * 10_000)], TopicSettings(windows=(), retention=20))
    first = client.get("/v1/topics/short/events?limit=1").json["events"][0]["$offset"]
    assert first > 1
    found = asked(client, "/v1/topics/short/stats/series", step="10s")
    assert found["times"][0] == BEGIN + (first - 1) * 10_000 + 70_000
    assert set(found["stats"]["count"]) == {6}


def test_wall_clock_counts_what_arrived_before_each_time(broker):
    client = create_app(broker).test_client()
    for n in range(5):
        assert client.post("/v1/topics/now/events", json={"key": f"k{n % 2}", "x": n}).status_code == 202
    url = "/v1/topics/now/stats/series"
    query = {"key": "k0", "field": "x", "stat": "sum,count"}
    until(lambda: 3 in asked(client, url, **query)["stats"]["count"])
    found = asked(client, url, **query)
    assert (found["stats"]["sum"][-1], found["step"]) == (6.0, 1_000)


def test_topic_without_a_log_has_no_times(client):
    found = asked(client)
    assert (found["times"], found["stats"], found["from"]) == ([], {"count": []}, None)


def test_csv_has_a_column_for_each_statistic(filled):
    answer = filled.get(f"{URL}.csv?field=delay&stat=mean,count&step=1m&key=a")
    assert answer.content_type == "text/csv; charset=utf-8"
    rows = list(csv.reader(io.StringIO(answer.text)))
    assert rows[:2] == [["time", "mean", "count"], ["2023-11-14T22:16:00.000Z", "2.0", "2"]]


def test_unchanged_answer_is_304(filled):
    tag = filled.get(URL).headers["ETag"]
    assert filled.get(URL, headers={"If-None-Match": tag}).status_code == 304
    filled.post("/v1/topics/flights/events", json={"time": BEGIN + 700_000})
    assert filled.get(URL, headers={"If-None-Match": tag}).status_code == 200


@pytest.mark.parametrize(
    ("topic", "query", "parameter", "words"),
    [
        ("flights", "window=2m", "window", "choose one of 1m, 5m"),
        ("flights", "window=last%203", "window", "window of time"),
        ("last", "", "window", "no windows of time"),
        ("flights", "stat=median&field=delay", "stat", "'median' is none of count"),
        ("flights", "stat=mean,mean&field=delay", "stat", "more than once"),
        ("flights", "stat=mean", "stat", "mean needs a field"),
        ("flights", "stat=", "stat", "'' is none of"),
        ("flights", "step=1500ms", "step", "not a multiple of a pane of this window, 1000 ms"),
        ("flights", "step=500ms", "step", "from 1 to 86400 seconds"),
        ("flights", "fill=cubic", "fill", "none of none, zero, last, linear"),
        ("flights", "since=1700000000", "since", "milliseconds"),
        ("flights", "by=color", "by", "none of key"),
        ("flights", "key=__other__", "key", "no series"),
        ("flights", "key=" + "k" * 201, "key", "at most 200 characters"),
        ("flights", "field=" + "k" * 201, "field", "at most 200 characters"),
        ("flights", "top=5", "top", "not supported here"),
    ],
)
def test_bad_parameters_name_themselves(filled, topic, query, parameter, words):
    answer = filled.get(f"/v1/topics/{topic}/stats/series?{query}")
    assert (answer.status_code, answer.json["parameter"]) == (400, parameter)
    assert words in answer.json["detail"]


def test_values_are_bounded(client):
    client.post("/v1/topics/flights/events", json=[{"time": BEGIN}, {"time": BEGIN + 20_000_000}])
    answer = client.get(f"{URL}?step=1s")
    assert (answer.status_code, answer.json["parameter"]) == (400, "step")
    assert "makes 20001 values, at most 10000" in answer.json["detail"]


def test_topic_with_events_only_has_no_series(client):
    assert client.get("/v1/topics/only/stats/series").json["type"].endswith("no-statistics")
