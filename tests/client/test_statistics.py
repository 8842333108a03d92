"""Statistics of a topic in Python: over time, and as pandas DataFrames."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime

import pytest

from pushsvc.client import Client, ClientError
from support.stack import Stack
from support.waiting import until


@pytest.fixture
def filled(shared_server: Stack, topic: str) -> str:
    with Client(shared_server.url) as client:
        client.publish(topic, [{"key": "ab"[n % 2], "n": n} for n in range(10)])
    until(lambda: shared_server.stats(topic)["offset"] == 10)
    return topic


def test_statistics_are_a_stream_and_a_data_frame(shared_server: Stack, filled: str) -> None:
    with Client(shared_server.url) as client, closing(client.stats(filled, window="5m", field="n", key="a")) as stats:
        table = stats.df()
        assert (table.index.name, str(table.index.tz), len(table)) == ("time", "UTC", 1)
        assert table.iloc[0][["key", "field", "count", "sum"]].tolist() == ["a", "n", 5, 20.0]
        assert next(iter(stats)).event == "snapshot"


def test_data_frame_of_all_windows_has_the_end_of_each(shared_server: Stack, filled: str) -> None:
    with Client(shared_server.url) as client:
        table = client.stats(filled, window="*", key="", field="").df()
        assert table["window"].tolist() == ["1m", "5m", "15m"]
        assert (table.index >= datetime(2020, 1, 1, tzinfo=UTC)).all()
        empty = client.stats(filled + ".none").df()
        assert (len(empty), empty.index.name) == (0, "time")
        with pytest.raises(ClientError, match="belongs to streams"):
            client.stats(filled, every="1s").df()


def test_series_is_iterated_and_a_data_frame(shared_server: Stack, filled: str) -> None:
    with Client(shared_server.url) as client:
        series = client.series(filled, window="1m", key="b", field="n", stat="mean,count")
        until(lambda: [row for row in series if row["count"]])
        first = next(row for row in series if row["count"])
        assert (first["mean"], first["count"]) == (5.0, 5)
        assert first["time"].tzinfo is UTC
        table = series.df()
        assert (table.index.name, str(table.index.tz), list(table)) == ("time", "UTC", ["mean", "count"])
        assert table["mean"].dropna().iloc[0] == 5.0
        assert (table.attrs["window"], table.attrs["step"]) == ("1m", 1_000)


def test_series_without_events_is_an_empty_data_frame(shared_server: Stack, topic: str) -> None:
    with Client(shared_server.url) as client:
        table = client.series(topic, field="n").df()
        assert (len(table), list(table), str(table.index.tz)) == (0, ["mean", "count"], "UTC")
        with pytest.raises(ClientError, match="step"):
            list(client.series(topic, step="7"))
