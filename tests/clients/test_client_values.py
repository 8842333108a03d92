"""What the Python client publishes: mappings, iterators, DataFrames, and values of numpy and pandas."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pushsvc.client import Client, ClientError, InvalidValue
from pushsvc_client.batches import BodyLimits, EventBody, add_receipts, batches
from support.stack import Stack
from support.waiting import DEADLINE

NAN = float("nan")


@pytest.fixture
def client(shared_server: Stack) -> Iterator[Client]:
    with Client(shared_server.url) as client:
        yield client


def stored(server: Stack, topic: str) -> list[dict[str, Any]]:
    """Return the events as they were sent: without what the server adds."""
    events = server.get(f"/v1/topics/{topic}/events?limit=10000").json()["events"]
    return [{name: value for name, value in event.items() if name not in ("$topic", "$offset")} for event in events]


def data(server: Stack, topic: str) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in event.items() if name not in ("time", "type")}
        for event in stored(server, topic)
    ]


def made(events: Any, limits: BodyLimits | None = None) -> list[EventBody]:
    return list(batches(events, {}, "error", limits or BodyLimits()))


# Shapes


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ({"x": 1}, [{"x": 1}]),
        (MappingProxyType({"x": 1}), [{"x": 1}]),
        ([{"x": 1}, {"x": 2}], [{"x": 1}, {"x": 2}]),
        (({"x": n} for n in range(3)), [{"x": 0}, {"x": 1}, {"x": 2}]),
        (iter([{"x": 1}]), [{"x": 1}]),
        (pd.DataFrame({"x": [1, 2], "y": ["a", "b"]}), [{"x": 1, "y": "a"}, {"x": 2, "y": "b"}]),
        (b'{"x":1}', [{"x": 1}]),
    ],
)
def test_every_shape_of_events_is_published(
    client: Client, shared_server: Stack, topic: str, events: Any, expected: list[dict[str, Any]]
) -> None:
    assert client.publish(topic, events)["accepted"] == len(expected)
    assert data(shared_server, topic) == expected


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ("text", "row 0 is of type str"),
        ([1], "row 0 is of type int"),
        ([{"x": 1}, None], "row 1 is of type NoneType"),
        (pd.Series([1.5]), "row 0 is of type float"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "two columns are named 'a'"),
    ],
)
def test_what_is_no_event_is_named(client: Client, shared_server: Stack, topic: str, events: Any, words: str) -> None:
    with pytest.raises(InvalidValue, match=words):
        client.publish(topic, events)
    assert stored(shared_server, topic) == []


@pytest.mark.parametrize("wrong", [{"missing": "drop"}, {"batch_size": 0}])
def test_a_wrong_argument_raises(client: Client, topic: str, wrong: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        client.publish(topic, {"x": 1}, **wrong)


# DataFrames


def test_columns_become_attributes_and_fields(client: Client, shared_server: Stack, topic: str) -> None:
    frame = pd.DataFrame({
        "id": ["a", "b"],
        "carrier": pd.Categorical(["UA", "AA"]),
        "when": pd.to_datetime(["2026-01-01T12:00:00.0", "2026-01-01T12:00:01.5"]),
        "delay": np.array([1.5, -2], dtype="float32"),
        "seats": pd.array([100, 200], dtype="Int64"),
        "late": [True, False],
    }, index=["x", "y"])  # fmt: skip
    client.publish(topic, frame, key="carrier", time="when")
    assert client.publish(topic, frame, key="carrier", time="when")["duplicates"] == 2
    assert stored(shared_server, topic) == [
        {"id": "a", "type": "message", "key": "UA", "time": "2026-01-01T12:00:00.000Z", "delay": 1.5, "seats": 100,
         "late": True},
        {"id": "b", "type": "message", "key": "AA", "time": "2026-01-01T12:00:01.500Z", "delay": -2, "seats": 200,
         "late": False},
    ]  # fmt: skip


def test_an_unknown_column_is_named(client: Client, topic: str) -> None:
    with pytest.raises(InvalidValue, match=r"key='carier' is not a column; the columns are carrier, delay"):
        client.publish(topic, pd.DataFrame({"carrier": ["UA"], "delay": [1]}), key="carier")


MISSING = pd.DataFrame({
    "rating": [1.0, NAN, 3.0],
    "when": pd.to_datetime(["2026-01-01", "2026-01-02", None]),
    "stars": pd.array([None, 2, 3], dtype="Int64"),
})  # fmt: skip


@pytest.mark.parametrize(("column", "row"), [("rating", 1), ("when", 2), ("stars", 0)])
def test_a_missing_cell_is_named_and_nothing_is_sent(
    client: Client, shared_server: Stack, topic: str, column: str, row: int
) -> None:
    with pytest.raises(ValueError, match=f"row {row}, field '{column}'.*NaN") as caught:
        client.publish(topic, MISSING[[column]])
    assert isinstance(caught.value, ClientError)
    assert stored(shared_server, topic) == []


def test_missing_cells_may_be_absent(client: Client, shared_server: Stack, topic: str) -> None:
    client.publish(topic, MISSING, missing="absent")
    assert data(shared_server, topic) == [
        {"rating": 1, "when": "2026-01-01T00:00:00Z"},
        {"when": "2026-01-02T00:00:00Z", "stars": 2},
        {"rating": 3, "stars": 3},
    ]


# Values


VALUES = [
    (np.int64(-3), -3),
    (np.uint64(2**64 - 1), 2**64 - 1),
    (np.float32(0.5), 0.5),
    (np.float64(1.5), 1.5),
    (np.longdouble(1.5), 1.5),
    (np.bool_(True), True),
    (np.str_("a"), "a"),
    (np.array([[1, 2]]), [[1, 2]]),
    (np.array(5), 5),
    (np.datetime64("2026-01-01"), "2026-01-01T00:00:00.000000Z"),
    (np.datetime64("2026-01-01T01:02:03.123456789"), "2026-01-01T01:02:03.123456Z"),
    (np.array(["2026-01-01"], dtype="datetime64[s]"), ["2026-01-01T00:00:00.000000Z"]),
    (pd.Timestamp("2026-01-01"), "2026-01-01T00:00:00Z"),
    (pd.Timestamp("2026-01-01", tz="Europe/Berlin"), "2026-01-01T00:00:00+01:00"),
    (datetime(2026, 1, 1, tzinfo=UTC), "2026-01-01T00:00:00+00:00"),
    (date(2026, 1, 1), "2026-01-01"),
    (None, None),
    ({"deep": (np.int8(1), MappingProxyType({"x": np.bool_(False)}))}, {"deep": [1, {"x": False}]}),
]


@pytest.mark.parametrize(("value", "expected"), VALUES)
def test_values_of_numpy_and_pandas_are_published(
    client: Client, shared_server: Stack, topic: str, value: Any, expected: Any
) -> None:
    client.publish(topic, {"x": value})
    assert data(shared_server, topic) == [{"x": expected}]


@pytest.mark.parametrize("time", [np.datetime64("2026-01-01"), pd.Timestamp("2026-01-01"), np.int64(1_767_225_600_000)])
def test_attributes_may_be_values_of_numpy_and_pandas(
    client: Client, shared_server: Stack, topic: str, time: Any
) -> None:
    client.publish(topic, {"time": time, "id": np.int64(7), "key": np.str_("pizza")})
    (event,) = stored(shared_server, topic)
    assert (event["time"], event["id"], event["key"]) == ("2026-01-01T00:00:00.000Z", "7", "pizza")


@pytest.mark.parametrize("value", [NAN, np.float32("nan"), np.float64("nan"), np.datetime64("NaT"), pd.NaT, pd.NA])
def test_a_missing_value_is_named_or_absent(client: Client, shared_server: Stack, topic: str, value: Any) -> None:
    for event, field in [
        ({"x": value}, "x"),
        ({"x": {"y": [1, value]}}, r"x\.y\[1\]"),
        ({"x": np.array([value], dtype=object)}, r"x\[0\]"),
    ]:
        with pytest.raises(InvalidValue, match=f"row 1, field '{field}'.*NaN"):
            client.publish(topic, [{"x": 1}, event])
    assert stored(shared_server, topic) == []
    client.publish(topic, {"x": value, "y": {"a": value, "b": [1, value, None]}}, missing="absent")
    assert data(shared_server, topic) == [{"y": {"b": [1, None, None]}}]


UNUSABLE = [float("inf"), np.float32("-inf"), np.timedelta64(1, "s"), pd.Timedelta("1s"), np.complex64(1), {1}, b"x",
            object(), "\ud800"]  # fmt: skip


@pytest.mark.parametrize("value", UNUSABLE, ids=[type(value).__name__ for value in UNUSABLE])
@pytest.mark.parametrize("missing", ["error", "absent"])
def test_a_value_without_a_json_form_is_named(topic: str, value: Any, missing: Any) -> None:
    with Client("http://127.0.0.1:1") as client, pytest.raises(InvalidValue, match="row 1, field 'x' cannot") as caught:
        client.publish(topic, [{"x": 1}, {"x": value}], missing=missing)
    assert str(caught.value).isascii()


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(InvalidValue, match="row 0 cannot be written as JSON: nested too deeply"):
        made([{"x": loop}])


def test_pandas_is_not_imported() -> None:
    script = "import sys, pushsvc.client; print({'pandas', 'numpy'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=DEADLINE, check=True)
    assert done.stdout == "set()\n"


# Requests of bounded size


def test_an_iterator_is_sent_in_bounded_requests() -> None:
    found = made(({"n": n} for n in range(5)), BodyLimits(events=2))
    assert [(json.loads(batch.body), batch.first_row) for batch in found] == [
        ([{"n": 0}, {"n": 1}], 0),
        ([{"n": 2}, {"n": 3}], 2),
        ([{"n": 4}], 4),
    ]


@pytest.mark.parametrize("size", range(20, 60))
def test_no_request_is_larger_than_its_bound(size: int) -> None:
    events = [{"n": "x" * (n % 7)} for n in range(30)]
    found = made(events, BodyLimits(bytes=size))
    assert [event for batch in found for event in json.loads(batch.body)] == events
    assert max(len(batch.body) for batch in found) <= size


def test_a_large_event_is_sent_alone() -> None:
    found = made([{"n": 1}, {"n": "x" * 100}, {"n": 2}], BodyLimits(bytes=50))
    assert [len(json.loads(batch.body)) for batch in found] == [1, 1, 1]


def test_a_long_iterator_is_not_held_in_memory() -> None:
    """Thirty requests of 100 KB take the memory of a few of them."""
    events = ({"n": n, "text": "x" * 1_000} for n in range(3_000))
    tracemalloc.start()
    try:
        sizes = [len(batch.body) for batch in batches(events, {}, "error", BodyLimits(bytes=100_000))]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(sizes) > 3_000_000
    assert peak < 1_000_000


def test_the_receipt_sums_up_all_requests(client: Client, shared_server: Stack, topic: str) -> None:
    events = [{"id": f"e{n}", "n": n} for n in range(25)]
    client.publish(topic, events[:3])
    receipt = client.publish(topic, iter(events), batch_size=10)
    assert receipt == {
        "topic": topic, "accepted": 22, "duplicates": 3, "rejected": 0, "late": 0, "first_offset": 1, "last_offset": 25,
    }  # fmt: skip
    assert [event["n"] for event in data(shared_server, topic)] == list(range(25))


def test_skipped_events_are_reported_by_their_rows(client: Client, topic: str) -> None:
    events: list[Mapping[str, Any]] = [{"key": "" if n in (1, 2, 5) else "a"} for n in range(6)]
    receipt = client.publish(topic, events, batch_size=2, on_error="skip")
    assert (receipt["accepted"], receipt["rejected"]) == (3, 3)
    assert [fault["line"] for fault in receipt["errors"]] == [2, 3, 6]


def test_at_most_100_faults_are_listed() -> None:
    part = {"accepted": 1, "duplicates": 0, "rejected": 60, "late": 0, "first_offset": 1, "last_offset": 1,
            "errors": [{"line": n, "field": None, "detail": ""} for n in range(1, 61)], "more": 0}  # fmt: skip
    total = add_receipts(add_receipts(None, part, 0), part, 61)
    assert (len(total["errors"]), total["more"], total["rejected"]) == (100, 20, 120)
    assert total["errors"][60]["line"] == 62


def test_an_error_bears_the_receipt_of_the_requests_before_it(client: Client, shared_server: Stack, topic: str) -> None:
    for bad, words in [({"x": NAN}, "row 5, field 'x'"), ({"key": "x" * 300}, "400 line 2, field 'key'")]:
        with pytest.raises(ClientError, match=words) as caught:
            client.publish(topic, [*({"x": n} for n in range(5)), bad], batch_size=2)
        assert caught.value.receipt is not None
        assert caught.value.receipt["accepted"] == 4
    assert [event["x"] for event in data(shared_server, topic)] == [0, 1, 2, 3] * 2


def test_what_an_iterator_raises_is_raised(client: Client, shared_server: Stack, topic: str) -> None:
    def events() -> Iterator[dict[str, int]]:
        yield {"n": 1}
        yield {"n": 2}
        raise LookupError("the source is gone")

    with pytest.raises(LookupError):
        client.publish(topic, events(), batch_size=1)
    assert data(shared_server, topic) == [{"n": 1}]


def test_only_requests_whose_events_all_have_ids_are_repeatable() -> None:
    """An id that is missing is no id, however it is left out."""
    events = [{"id": "a"}, {"id": "b"}, {"id": NAN}, {"id": "c"}, {"id": None}, {"x": 1}]
    found = batches(events, {}, "absent", BodyLimits(events=1))
    assert [batch.all_have_ids for batch in found] == [True, True, False, True, False, False]
    pairs = batches(events, {}, "absent", BodyLimits(events=2))
    assert [batch.all_have_ids for batch in pairs] == [True, False, False]
