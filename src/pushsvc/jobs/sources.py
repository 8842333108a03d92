"""Cuts tables into partitions: a DataFrame, a CSV file or a Parquet file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import pandas as pd

from pushsvc.jobs.failures import JobError
from pushsvc.jobs.partitions import CsvRange, FileState, FrameRows, Partition, RowGroups, read_csv

ROWS = 500_000
"""Rows of a partition, unless its source says otherwise."""
BYTES = 16_000_000
"""Bytes of a partition of a CSV file."""
MAX_RECORD = 64_000_000
"""Bytes that a CSV file may have between two ends of records: beyond it the quotes are unbalanced."""
_BLOCK, _END = 1_000_000, ord("\n")
OPTIONS = frozenset({
    "converters", "date_format", "decimal", "dayfirst", "dtype", "false_values", "keep_default_na", "na_values",
    "on_bad_lines", "parse_dates", "sep", "thousands", "true_values", "usecols",
})  # fmt: skip
"""Options of ``pandas.read_csv`` that treat each row alone, and so mean the same for each partition."""


class Source(Protocol):
    """A table that can be cut."""

    @property
    def unit(self) -> str:
        """What the sizes of partitions count."""
        ...

    def cut(self, folder: Path) -> Sequence[Partition]:
        """Return one partition or more; ``folder`` is for files that last as long as the job. Raise JobError."""
        ...


@dataclass(frozen=True)
class Csv:
    """A CSV file in UTF-8 with a header, quoted as in RFC 4180, in partitions of about ``partition`` bytes.

    ``options`` are those of ``pandas.read_csv`` that treat each row alone. Give ``dtype``: pandas guesses the types of
    each partition by its own rows.
    """

    path: str | Path
    partition: int = BYTES
    options: Mapping[str, Any] = field(default_factory=dict)
    unit: str = field(default="bytes", init=False)

    def __post_init__(self) -> None:
        _check_size(self.partition)
        if unknown := self.options.keys() - OPTIONS:
            raise ValueError(f"option {min(unknown)!r} is none of {', '.join(sorted(OPTIONS))}")

    def cut(self, folder: Path) -> list[Partition]:
        path = Path(self.path).absolute()
        with _open(path) as file:
            state = FileState.of(file)
            ends = _record_ends(file, self.partition)
            if len(ends) < 2:
                raise JobError(f"{path.name} is empty, it has not even a header")
            file.seek(0)
            header = file.read(ends[1][0])
        if not header.endswith(b"\n"):
            header += b"\n"
        try:
            read_csv(header, self.options)
        except ValueError as error:
            raise JobError(f"{path.name}: {error}") from None
        cuts = ends[1:] if len(ends) > 2 else [ends[1], ends[1]]
        return [
            CsvRange(path, state, header, start, stop, (line + 1, max(last, line + 1)), self.options)
            for (start, line), (stop, last) in pairwise(cuts)
        ]


def _record_ends(file: BinaryIO, step: int) -> list[tuple[int, int]]:
    """Return where partitions begin and end, as (bytes, lines) before: 0, the end of the header, then about every
    ``step`` bytes the end of a record, and the end of the file. An end of line between quotes ends no record."""
    ends, wanted = [(0, 0)], 1  # bytes that the next end has before it, at least
    position = lines = 0
    quoted, last = False, b""
    for block in iter(lambda: file.read(_BLOCK), b""):
        place = 0
        while place < len(block):
            begun, place = place, min(max(wanted - 1 - position, place), len(block))
            end = block.find(b"\n", place) + 1 or len(block)
            quoted ^= block.count(b'"', begun, end) % 2 == 1
            lines += block.count(b"\n", begun, end)
            place = end
            if not quoted and block[end - 1] == _END and position + end >= wanted:
                ends.append((position + end, lines))
                wanted = position + end + step
        position, last = position + len(block), block[-1:]
        if (open_bytes := position - max(wanted, ends[-1][0])) > MAX_RECORD:
            detail = f"does not end within {MAX_RECORD} bytes: is a quote left open?"
            raise JobError(f"{file.name}: the record around byte {position - open_bytes} {detail}")
    if quoted:
        raise JobError(f"{file.name}: the file ends between quotes")
    if position > ends[-1][0]:
        ends.append((position, lines + (not last.endswith(b"\n"))))
    return ends


@dataclass(frozen=True)
class Parquet:
    """A Parquet file in partitions of row groups that have about ``partition`` rows together; one group is never cut.

    ``columns`` are those to read, if not all.
    """

    path: str | Path
    partition: int = ROWS
    columns: Sequence[str] | None = None
    unit: str = field(default="rows", init=False)

    def __post_init__(self) -> None:
        _check_size(self.partition)

    def cut(self, folder: Path) -> list[Partition]:
        try:
            from pyarrow import ArrowInvalid  # type: ignore[import-untyped]
            from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]
        except ImportError:
            raise JobError("Parquet files need pyarrow: pip install 'pushsvc[parquet]'") from None
        path = Path(self.path).absolute()
        with _open(path) as file:
            state = FileState.of(file)
            try:
                table = ParquetFile(file)
            except ArrowInvalid as error:
                raise JobError(f"{path.name} is no Parquet file: {error}") from None
            if missing := [name for name in self.columns or () if name not in table.schema_arrow.names]:
                raise JobError(f"{path.name} has no column {missing[0]!r}")
            sizes = [table.metadata.row_group(number).num_rows for number in range(table.metadata.num_row_groups)]
        parts: list[tuple[list[int], int]] = []
        for number, size in enumerate(sizes):
            if parts and parts[-1][1] + size <= self.partition:
                parts[-1] = ([*parts[-1][0], number], parts[-1][1] + size)
            else:
                parts.append(([number], size))
        return [RowGroups(path, state, groups, size, self.columns) for groups, size in parts or [([], 0)]]


@dataclass(frozen=True)
class Frame:
    """A DataFrame in partitions of ``partition`` rows.

    Columns of numbers, times and booleans are written to a file once, which all processes map into their memory:
    functions get them read-only. Other columns are written in pieces, one for each partition.
    """

    table: pd.DataFrame
    partition: int = ROWS
    unit: str = field(default="rows", init=False)

    def __post_init__(self) -> None:
        _check_size(self.partition)
        if not self.table.columns.is_unique:
            raise ValueError("two columns have the same name")

    def cut(self, folder: Path) -> list[Partition]:
        table = self.table
        arrays = {}
        for number, column in enumerate(table.columns):
            if isinstance(table.dtypes.iloc[number], np.dtype) and table.dtypes.iloc[number] != np.object_:
                arrays[column] = f"column-{number}.npy"
                np.save(folder / arrays[column], table[column].to_numpy(), allow_pickle=False)
        rest = table[[column for column in table.columns if column not in arrays]]
        index = table.index
        counts = isinstance(index, pd.RangeIndex) and index.start == 0 and index.step == 1 and index.name is None
        whole = FrameRows(folder, 0, 0, tuple(table.columns), arrays, None)
        parts: list[Partition] = []
        for start in range(0, max(len(table), 1), self.partition):
            stop, piece = min(start + self.partition, len(table)), None
            if rest.shape[1] or not counts:
                piece = f"rows-{start}.pickle"
                rest.iloc[start:stop].to_pickle(folder / piece)
            parts.append(replace(whole, start=start, stop=stop, piece=piece))
        return parts


def source_of(given: Any) -> Source:
    """Return a source: a given one, or one of a DataFrame or path. Raise JobError for anything else."""
    if isinstance(given, (Csv, Parquet, Frame)):
        return given
    if isinstance(given, pd.DataFrame):
        return Frame(given)
    if isinstance(given, (str, Path)):
        match Path(given).suffix.lower():
            case ".csv":
                return Csv(given)
            case ".parquet":
                return Parquet(given)
        raise JobError(f"{Path(given).name} is neither .csv nor .parquet; jobs.Csv and jobs.Parquet take any name")
    raise JobError(f"{type(given).__name__} is no DataFrame, path or source")


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise JobError(f"{path}: {error.strerror}") from None


def _check_size(size: int) -> None:
    if size < 1:
        raise ValueError(f"partition={size!r} must be at least 1")
