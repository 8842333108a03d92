"""Partitions of tables. Workers get these few bytes, and read the rows themselves."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd


class Partition(Protocol):
    """Rows of a table; ``size`` is in the unit of its source, rows or bytes."""

    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...
    def read(self) -> pd.DataFrame:
        """Return the rows."""
        ...


@dataclass(frozen=True)
class FileState:
    """Tells one version of a file from another."""

    size: int
    modified: int
    inode: int

    @classmethod
    def of(cls, file: Any) -> FileState:
        state = os.fstat(file.fileno())
        return cls(state.st_size, state.st_mtime_ns, state.st_ino)

    def check(self, file: Any) -> None:
        """Raise ValueError if a file is not the one that was cut into partitions."""
        if self.of(file) != self:
            raise ValueError(f"{file.name} changed while the job was running")


@dataclass(frozen=True)
class CsvRange:
    """The bytes from ``start`` to ``stop`` of a CSV file: whole records. ``header`` is the first record of the file."""

    path: Path
    state: FileState
    header: bytes
    start: int
    stop: int
    lines: tuple[int, int]  # first and last, from 1
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return (
            f"{self.path.name}, lines {self.lines[0]} to {self.lines[1]}" if self.size else f"{self.path.name}, no rows"
        )

    @property
    def size(self) -> int:
        return self.stop - self.start

    def read(self) -> pd.DataFrame:
        with self.path.open("rb") as file:
            self.state.check(file)
            file.seek(self.start)
            data = file.read(self.size)
        return read_csv(self.header + data, self.options)


def read_csv(data: bytes, options: Mapping[str, Any]) -> pd.DataFrame:
    """Return the table of a CSV text. A row with too many values is an error, not an index."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pd.errors.DtypeWarning)
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            table: pd.DataFrame = pd.read_csv(BytesIO(data), index_col=False, **options)
        except pd.errors.ParserWarning as warning:
            raise ValueError(f"a row has more values than the header has names: {warning}") from None
    return table


@dataclass(frozen=True)
class RowGroups:
    """Consecutive row groups of a Parquet file."""

    path: Path
    state: FileState
    groups: Sequence[int]
    size: int
    columns: Sequence[str] | None

    @property
    def name(self) -> str:
        if not self.size:
            return f"{self.path.name}, no rows"
        return f"{self.path.name}, row groups {self.groups[0]} to {self.groups[-1]}"

    def read(self) -> pd.DataFrame:
        from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]

        columns = None if self.columns is None else list(self.columns)
        with self.path.open("rb") as file:
            self.state.check(file)
            table: pd.DataFrame = ParquetFile(file).read_row_groups(list(self.groups), columns=columns).to_pandas()
        return table


@dataclass(frozen=True)
class FrameRows:
    """Rows of a DataFrame that was written to ``folder``: columns of numpy as arrays, others a piece a partition."""

    folder: Path
    start: int
    stop: int
    columns: Sequence[Any]
    arrays: Mapping[Any, str]  # column: file
    piece: str | None  # file of the other columns, and of an index that does not count the rows

    @property
    def name(self) -> str:
        return f"rows {self.start} to {self.stop - 1}" if self.stop > self.start else "no rows"

    @property
    def size(self) -> int:
        return self.stop - self.start

    def read(self) -> pd.DataFrame:
        if self.piece is None:
            rest = pd.DataFrame(index=pd.RangeIndex(self.start, self.stop))
        else:
            rest = pd.read_pickle(self.folder / self.piece)
        mapped = {
            column: pd.Series(self._array(file)[self.start : self.stop], rest.index, copy=False)
            for column, file in self.arrays.items()
        }
        found = {column: mapped[column] if column in mapped else rest[column] for column in self.columns}
        return pd.DataFrame(found, index=rest.index, columns=pd.Index(self.columns), copy=False)

    def _array(self, file: str) -> np.ndarray[Any, Any]:
        return np.asarray(np.load(self.folder / file, mmap_mode="r" if self.size else None))
