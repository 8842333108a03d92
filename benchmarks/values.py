"""The cost of statistics of values: the benchmark values of aggregation.py."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import orjson

from measure import (
    BATCH,
    QUANTILES,
    THREE,
    Effort,
    Feed,
    Table,
    Target,
    beside,
    draw_values,
    floor_of,
    key_names,
    ns,
    settings,
    share,
)

USERS = 5_000
CHOICES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("without", ()),
    ("quantiles", QUANTILES),
    ("distinct", ("distinct",)),
    ("quantiles, distinct", (*QUANTILES, "distinct")),
    ("quantiles, distinct, top, first, last", (*QUANTILES, "distinct", "top", "first", "last")),
)


def named_batches(count: int, keys: int) -> list[bytes]:
    """Return stored batches with a number and a name in each event; a few names are frequent."""
    random, names = np.random.default_rng(4), key_names(keys)
    batches = []
    for _ in range(count):
        chosen, values = random.integers(0, keys, BATCH).tolist(), draw_values(random, BATCH).tolist()
        users = (random.zipf(1.3, BATCH) % USERS).tolist()
        lines = [
            orjson.dumps({"key": names[key], "value": value, "user": f"user-{user}"})
            for key, value, user in zip(chosen, values, users, strict=True)
        ]
        batches.append(b"\n".join(lines))
    return batches


def measure_values(effort: Effort) -> None:
    table = Table(
        "statistics of values",
        ("windows, keys, statistics", "floor", "bare", "frames", "bare", "frames", "target", "bare", "frames"),
        "ns per event, and cost / cost without, each against the floor measured beside it. Events have a number\n"
        f"and a name of {USERS:,}, the same bytes on each line; 100,000 events a second of arrival, full windows.",
    )
    for windows, keys in ((("1m",), 1), (("1m",), 1_000), (THREE, 1_000)):
        batches = named_batches(100, keys)
        costs = [_cost(windows, keys, statistics, batches, effort) for _, statistics in CHOICES]
        for (name, _), (bare, frames) in zip(CHOICES, costs, strict=True):
            ratios = [share(without) / share(own) for without, own in zip(costs[0], (bare, frames), strict=True)]
            limit = Target("<= 1.6", 1.6, least=False) if name == "quantiles, distinct" else None
            verdicts = ("", "", "") if limit is None else (limit.text, *map(limit.verdict, ratios))
            cells = [ns(seconds, 1) for seconds in (bare[0], bare[1], frames[1])]
            line = f"{len(windows)}, {keys:,}, {name}"
            table.add(line, *cells, *(f"{ratio:.2f}" for ratio in ratios), *verdicts)
    table.print()


def _cost(
    windows: tuple[str, ...], keys: int, statistics: tuple[str, ...], batches: list[bytes], effort: Effort
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return seconds per event of the floor, of counting, and of counting with frames."""
    values = ("user",) if set(statistics) - set(QUANTILES) else ()
    feed = Feed(replace(settings(windows, False, keys), statistics=statistics, values=values))
    count, floor = effort.piece, floor_of(batches)

    def measure(ticking: bool) -> tuple[float, float]:
        base, took = beside(floor, partial(feed.run, batches, count, 10, ticking=ticking), 6, effort.repeats)
        return base / (6 * len(batches) * BATCH), took / (6 * count * BATCH)

    feed.run(batches, 900, 100)
    bare = measure(False)
    feed.watch()
    feed.run(batches, 100, 10, ticking=True)
    return bare, measure(True)
