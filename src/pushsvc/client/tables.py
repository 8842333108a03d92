"""Statistics as pandas DataFrames. pandas is imported at the first use: it takes seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame


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
