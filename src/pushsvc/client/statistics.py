"""Statistics of a topic: as a stream, over time, and as pandas DataFrames."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pushsvc.client.tables import to_table
from pushsvc.sse import Message

if TYPE_CHECKING:
    from pandas import DataFrame

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Statistics(Iterator[Message]):
    """The messages of a stream of statistics, without end, or with ``df`` the statistics at one moment."""

    def __init__(self, messages: Generator[Message], snapshot: Callable[[], Mapping[str, Any]]) -> None:
        self._messages = messages
        self._snapshot = snapshot

    def __next__(self) -> Message:
        return next(self._messages)

    def close(self) -> None:
        """Close the stream."""
        self._messages.close()

    def df(self) -> DataFrame:
        """Return a DataFrame with a row for each key and field, and the end of the window (UTC) as index ``time``.

        With ``window="*"`` the first column is the window. Raise ClientError.
        """
        import pandas as pd

        answer = self._snapshot()
        frames = answer.get("windows", [answer])
        ends = [frame["to"] for frame in frames for _ in frame["data"]]
        table = to_table(answer)
        return table.set_index(pd.DatetimeIndex(pd.to_datetime(ends, format="ISO8601", utc=True), name="time"))


class Series:
    """Statistics of one row over time. Each use asks the server anew."""

    def __init__(self, answer: Callable[[], Mapping[str, Any]]) -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield for each time, a datetime, the statistics by their names, None where there is none; raise
        ClientError."""
        answer = self._answer()
        names = answer["stats"].keys()
        for time, *values in zip(answer["times"], *answer["stats"].values(), strict=True):
            yield {"time": _EPOCH + timedelta(milliseconds=time), **dict(zip(names, values, strict=True))}

    def df(self) -> DataFrame:
        """Return a DataFrame with a row for each time (UTC), its index, and a column for each statistic, NaN where
        there is none. ``attrs`` has the other members of the answer: ``from``, ``step`` and more. Raise ClientError."""
        import pandas as pd

        answer = self._answer()
        index = pd.DatetimeIndex(pd.to_datetime(answer["times"], unit="ms", utc=True), name="time")
        table = pd.DataFrame(answer["stats"], index=index, dtype="float64")
        table.attrs = {name: value for name, value in answer.items() if name not in ("times", "stats")}
        return table
