"""Answers as rows and as pandas DataFrames. pandas is imported at the first use: it takes seconds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Lines:
    """Takes a document of JSON lines in pieces."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> Iterator[dict[str, Any]]:
        """Yield the objects that a piece completes."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        yield from map(json.loads, lines)


def to_table(answer: Mapping[str, Any]) -> DataFrame:
    """Return the rows of a snapshot, or of the snapshots of all windows, with the window as the first column."""
    import pandas as pd

    if "windows" in answer:
        tables = [(frame["window"], to_table(frame)) for frame in answer["windows"]]
        for _, table in tables:
            table.attrs.clear()  # concat would compare them
        return pd.concat(dict(tables), names=["window"]).reset_index(level="window").reset_index(drop=True)
    table = pd.DataFrame(answer["data"], columns=answer["columns"])
    table.attrs = {name: value for name, value in answer.items() if name not in ("data", "columns")}
    return table


def statistics_table(answer: Mapping[str, Any]) -> DataFrame:
    """Return the same with the end of the window (UTC) as index ``time``."""
    import pandas as pd

    frames = answer.get("windows", [answer])
    ends = [frame["to"] for frame in frames for _ in frame["data"]]
    table = to_table(answer)
    return table.set_index(pd.DatetimeIndex(pd.to_datetime(ends, format="ISO8601", utc=True), name="time"))


def events_table(events: Iterable[Mapping[str, Any]]) -> DataFrame:
    """Return a row for each event, its time (UTC) as index, and a column for each other member."""
    import pandas as pd

    table = pd.DataFrame(list(events)).drop(columns="$topic", errors="ignore")
    if "time" not in table:
        return table.set_index(pd.DatetimeIndex([], tz="UTC", name="time"))
    table["time"] = pd.to_datetime(table["time"], format="ISO8601", utc=True)
    return table.set_index("time")


def latest_table(answer: Mapping[str, Any]) -> DataFrame:
    """Return a row for each newest event, its key as index, and a column for each other member."""
    table = events_table(answer["events"]).reset_index()
    return table.set_index("key") if "key" in table else table.rename_axis("key")


def series_rows(answer: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield for each time, a datetime, the statistics by their names, None where there is none."""
    names = answer["stats"].keys()
    for time, *values in zip(answer["times"], *answer["stats"].values(), strict=True):
        yield {"time": _EPOCH + timedelta(milliseconds=time), **dict(zip(names, values, strict=True))}


def series_table(answer: Mapping[str, Any]) -> DataFrame:
    """Return a row for each time (UTC), its index, and a column for each statistic, NaN where there is none."""
    import pandas as pd

    index = pd.DatetimeIndex(pd.to_datetime(answer["times"], unit="ms", utc=True), name="time")
    table = pd.DataFrame(answer["stats"], index=index, dtype="float64")
    table.attrs = {name: value for name, value in answer.items() if name not in ("times", "stats")}
    return table
