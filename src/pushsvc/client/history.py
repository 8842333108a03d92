"""The events that a topic has, as objects or as a pandas DataFrame."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame


class History:
    """The selected events of a topic, the oldest first. Each iteration asks the server anew."""

    def __init__(self, pieces: Callable[[], Iterator[bytes]]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the events in their public form; raise ClientError, also after some if the answer is cut."""
        rest = b""
        for piece in self._pieces():
            *lines, rest = (rest + piece).split(b"\n")
            yield from map(json.loads, lines)

    def df(self) -> DataFrame:
        """Return a DataFrame with a row for each event, its time (UTC) as index, and a column for each other member.

        Lists and objects stay as they are. Raise ClientError.
        """
        import pandas as pd

        table = pd.DataFrame(list(self)).drop(columns="$topic", errors="ignore")
        if "time" not in table:
            return table.set_index(pd.DatetimeIndex([], tz="UTC", name="time"))
        table["time"] = pd.to_datetime(table["time"], format="ISO8601", utc=True)
        return table.set_index("time")
