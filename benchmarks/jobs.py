"""Jobs on one and two processes, beside the same function in this process, and plain pandas.

python benchmarks/jobs.py [--rows 4000000] [--turns 3]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pushsvc import jobs

COLUMNS: list[Any] = ["count", "sum", "mean", "min", "max", "std"]  # of the wider type that pandas takes


def sales(rows: int) -> pd.DataFrame:
    chance = np.random.default_rng(1)
    return pd.DataFrame({
        "shop": chance.choice(["north", "south", "east", "west", "airport", "station"], rows),
        "amount": chance.lognormal(3, 1, rows).round(2),
        "customer": chance.integers(0, 50_000, rows),
    })  # fmt: skip


def checksums(table: pd.DataFrame) -> int:
    """Compute for each row in Python what no array operation does: a Luhn digit of the customer's number."""
    total = 0
    for number in table["customer"].astype(str):
        digits = [int(digit) for digit in reversed(number)]
        odd = sum(sum(divmod(2 * digit, 10)) for digit in digits[::2])
        total += (odd + sum(digits[1::2])) % 10
    return total


def bandwidth(table: pd.DataFrame) -> float:
    """Read each number once: the memory is the limit, not the processor."""
    return float(table["amount"].sum() + table["customer"].sum())


def seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def add(one: Any, other: Any) -> Any:
    return one + other


def compare(name: str, turns: int, plain: Callable[[], object], run: Callable[[jobs.Pool], object]) -> None:
    """Print the least time of each, taken in turns: what disturbs the machine disturbs all of them."""
    works = (plain, lambda: run(jobs.Pool(1)), lambda: run(jobs.Pool(2)))
    alone, one, two = (min(times) for times in zip(*(map(seconds, works) for _ in range(turns)), strict=True))
    print(f"| {name} | {alone:.2f} | {one:.2f} | {two:.2f} | {one / two:.2f} | {alone / two:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4_000_000)
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {arguments.rows:,} rows\n")
    table = sales(arguments.rows)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "sales.csv")
        table.to_csv(path, index=False)
        print(f"seconds; the CSV file has {path.stat().st_size / 1e6:.0f} MB\n")
        print("| work | pandas here | one process | two | one / two | pandas / two |\n|---|---|---|---|---|---|")
        turns = arguments.turns
        nothing = table.iloc[:0]
        compare("none: start and end", turns, lambda: None, lambda pool: jobs.run(nothing, len, merge=add, pool=pool))
        compare(
            "CSV: six statistics by key", turns,
            lambda: pd.read_csv(path).groupby("shop")["amount"].agg(COLUMNS),
            lambda pool: jobs.statistics(path, ["amount"], by="shop", pool=pool),
        )  # fmt: skip
        compare(
            "CSV: the same, p50, p95 and distinct", turns,
            lambda: _all(pd.read_csv(path)),
            lambda pool: jobs.statistics(
                path, ["amount"], by="shop", distinct=["customer"], percents=[50, 95], pool=pool
            ),
        )  # fmt: skip
        compare(
            "DataFrame: six statistics by key", turns,
            lambda: table.groupby("shop")["amount"].agg(COLUMNS),
            lambda pool: jobs.statistics(table, ["amount"], by="shop", pool=pool),
        )  # fmt: skip
        numbers = table[["amount", "customer"]]
        compare(
            "DataFrame: sums of two columns", turns, lambda: bandwidth(numbers),
            lambda pool: jobs.run(numbers, bandwidth, merge=add, pool=pool),
        )  # fmt: skip
        compare(
            "CSV: Python for each row", 1, lambda: checksums(pd.read_csv(path)),
            lambda pool: jobs.run(jobs.Csv(path, 4_000_000), checksums, merge=add, pool=pool),
        )  # fmt: skip


def _all(table: pd.DataFrame) -> None:
    shops = table.groupby("shop")
    shops["amount"].agg(COLUMNS)
    shops["amount"].quantile(np.array([0.5, 0.95]))
    shops["customer"].nunique()


if __name__ == "__main__":
    main()
