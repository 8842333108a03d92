"""Partitions of tables: every row once, in order, and clear errors for what is no table."""

import csv
import io
import random

import numpy as np
import pandas as pd
import pytest

from pushsvc.jobs import Csv, Frame, JobError, Parquet
from pushsvc.jobs import sources as module
from pushsvc.jobs.sources import source_of

TYPES = {"options": {"dtype": {"key": "str", "n": "float64"}}}
TABLE = pd.DataFrame({"key": ["a", "b\nc", 'd"e', None, "f,g"] * 20, "n": np.arange(100.0)})


def rows_of(source, folder):
    partitions = source.cut(folder)
    return partitions, pd.concat([partition.read() for partition in partitions], ignore_index=True)


@pytest.mark.parametrize("size", [1, 40, 1_000_000])
def test_a_csv_file_is_cut_at_the_ends_of_records(tmp_path, size):
    TABLE.to_csv(tmp_path / "t.csv", index=False)
    partitions, found = rows_of(Csv(tmp_path / "t.csv", size, **TYPES), tmp_path)
    pd.testing.assert_frame_equal(found, pd.read_csv(tmp_path / "t.csv", dtype=TYPES["options"]["dtype"]))
    assert len(partitions) == {1: 100, 40: 20, 1_000_000: 1}[size]
    assert sum(partition.size for partition in partitions) == (tmp_path / "t.csv").stat().st_size - len("key,n\n")


def test_any_quoted_csv_file_is_cut_as_pandas_reads_it(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 7)
    chance = random.Random(1)
    for number in range(60):
        file = io.StringIO(newline="")
        writer = csv.writer(file, lineterminator=chance.choice(["\n", "\r\n"]))
        writer.writerow(["a", 'b"\n'])
        for _ in range(chance.randrange(30)):
            writer.writerow(["".join(chance.choices('x,"\nß', k=chance.randrange(8))) + "." for _ in range(2)])
        text = file.getvalue() if chance.random() < 0.5 else file.getvalue().rstrip("\r\n")
        path = tmp_path / f"{number}.csv"
        path.write_bytes(text.encode())
        _, found = rows_of(Csv(path, chance.randrange(1, 60), {"dtype": "str"}), tmp_path)
        pd.testing.assert_frame_equal(found, pd.read_csv(path, dtype="str"))


def test_a_data_frame_comes_back_as_it_was(tmp_path):
    table = TABLE.assign(
        time=pd.date_range("2026-01-01", periods=100, tz="UTC"), naive=pd.date_range("2026-01-01", periods=100),
        whole=pd.array([1, None] * 50, dtype="Int64"), flag=TABLE["n"] > 50, kind=pd.Categorical(["x", "y"] * 50),
    )  # fmt: skip
    for given in (table, table.set_index("key"), table[["n", "flag"]], table.iloc[::-1], table.iloc[:1]):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        parts = [partition.read() for partition in Frame(given, 33).cut(folder)]
        pd.testing.assert_frame_equal(pd.concat(parts), given)


def test_numbers_of_a_data_frame_are_mapped_and_not_copied(tmp_path):
    (partition,) = Frame(TABLE[["n"]]).cut(tmp_path)
    values = partition.read()["n"].to_numpy()
    base = values
    while base.base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)


def test_a_parquet_file_is_cut_between_row_groups(tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: the extra parquet")
    TABLE.to_parquet(tmp_path / "t.parquet", row_group_size=10)
    partitions, found = rows_of(Parquet(tmp_path / "t.parquet", 25), tmp_path)
    pd.testing.assert_frame_equal(found, pd.read_parquet(tmp_path / "t.parquet"))
    assert [partition.size for partition in partitions] == [20] * 5
    assert partitions[1].name == "t.parquet, row groups 2 to 3"


def test_a_table_without_rows_is_one_partition(tmp_path):
    nothing = TABLE.iloc[:0]
    nothing.to_csv(tmp_path / "t.csv", index=False)
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: the extra parquet")
    nothing.to_parquet(tmp_path / "t.parquet")
    for source in (tmp_path / "t.csv", tmp_path / "t.parquet", nothing):
        (partition,) = source_of(source).cut(tmp_path)
        assert list(partition.read().columns) == ["key", "n"]
        assert (partition.size, len(partition.read())) == (0, 0)
        assert partition.name.endswith("no rows")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("t.csv", b"", "t.csv is empty, it has not even a header"),
        ("t.csv", b"\n\n", "No columns to parse"),
        ("t.csv", b'a,b\n1,"2\n3,4\n', "the file ends between quotes"),
        ("t.parquet", b"no parquet", "t.parquet is no Parquet file"),
        ("t.txt", b"a\n1\n", "t.txt is neither .csv nor .parquet"),
        ("none.csv", None, "No such file"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, name, content, problem):
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow", reason="pyarrow is not installed: the extra parquet")
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(JobError, match=problem):
        source_of(tmp_path / name).cut(tmp_path)


def test_a_quote_that_is_left_open_is_noticed_before_the_memory_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_RECORD", 3_000_000)
    (tmp_path / "t.csv").write_bytes(b'a\n1\n"' + b"2\n" * 4_000_000)
    with pytest.raises(JobError, match=r"the record around byte .* does not end within 3000000 bytes"):
        Csv(tmp_path / "t.csv", 1_000).cut(tmp_path)


def test_what_treats_rows_together_is_no_option_of_a_csv_file():
    with pytest.raises(ValueError, match="option 'nrows' is none of"):
        Csv("t.csv", options={"nrows": 3})


def test_a_file_that_changes_fails_the_partition(tmp_path):
    (tmp_path / "t.csv").write_text("a\n1\n")
    (partition,) = Csv(tmp_path / "t.csv").cut(tmp_path)
    (tmp_path / "t.csv").write_text("a\n1\n2\n")
    with pytest.raises(ValueError, match=r"t.csv changed while the job was running"):
        partition.read()


@pytest.mark.parametrize("rows", ["1,2\n1,2,3\n", "1,2,3\n1,2\n"])
def test_a_row_with_too_many_values_is_an_error(tmp_path, rows):
    (tmp_path / "t.csv").write_text("a,b\n" + rows)
    (partition,) = Csv(tmp_path / "t.csv").cut(tmp_path)
    with pytest.raises(ValueError, match=r"more values than the header|Expected 2 fields"):
        partition.read()
