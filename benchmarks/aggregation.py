"""The cost of the statistics engine, compared with parsing alone and with other libraries.

``python benchmarks/aggregation.py [--quick] [--only NAME] [--plot FILE]`` prints the tables of all benchmarks or of the
named one; ``--plot`` draws the tables of ``flat`` (matplotlib). Each benchmark runs in a process of its own, so that
the memory of one does not disturb the next. ``--quick`` runs a tenth of most sizes: it shows that the script works, but
its numbers are not reliable. The peers are in the extra ``bench``; a peer that cannot be measured is printed with the
reason.

The floor is the time that msgspec needs to parse the same NDJSON into dictionaries. It is measured in alternation with
the times that are divided by it. Times in ms depend on the machine; the line "floor" shows its speed at that time.

bytes     stored batches to statistics, without frames and with frames (``due`` every 100 ms of arrival)
objects   objects in memory to statistics, against river, streamz, bytewax and quixstreams (see peers.py)
snapshot  all rows of one window as JSON
memory    bytes per row with every pane filled
topics    10,000 topics of 16 keys in one engine
flat      cost per event against the length of the window and the events in it
late      cost per event when some events are late
values    cost per event with statistics of values
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np
import orjson

from measure import (
    BATCH,
    FULL,
    QUICK,
    THREE,
    Effort,
    Feed,
    Pair,
    Table,
    Target,
    beside,
    columns_of,
    cpu,
    decode_each,
    draw_values,
    floor_of,
    key_names,
    least,
    machine,
    ns,
    settings,
    share,
    stored_batches,
)
from pushsvc.event.columns import ColumnReader, Columns
from pushsvc.stats.window import Window
from sizes import measure_memory, measure_snapshot, measure_topics
from values import measure_values

RATE_STEP = 10
"""Milliseconds between two batches at 100,000 events a second."""


# -- bytes


@dataclass(frozen=True)
class Case:
    """One load of the benchmark ``bytes``."""

    name: str
    windows: tuple[str, ...]
    fields: int
    keys: int
    target: Target | None
    dressed: bool = False


CASES = (
    Case("1 window, 1 field, 1 key", ("1m",), 1, 1, Target(">= 40 %", 0.40)),
    Case("1 window, 1 field, 1,000 keys", ("1m",), 1, 1_000, Target(">= 40 %", 0.40)),
    Case("1 window, 1 field, 100,000 keys", ("1m",), 1, 100_000, Target(">= 20 %", 0.20)),
    Case("3 windows, 1 field, 1 key", THREE, 1, 1, Target(">= 30 %", 0.30)),
    Case("3 windows, 1 field, 1,000 keys", THREE, 1, 1_000, Target(">= 30 %", 0.30)),
    Case("1 window, 4 fields, 1,000 keys", ("1m",), 4, 1_000, Target(">= 15 %", 0.15)),
    Case("3 windows, 4 fields, 1,000 keys", THREE, 4, 1_000, None),
    Case("the same as the second, each event with an id", ("1m",), 1, 1_000, None, dressed=True),
)


class Line(msgspec.Struct):
    """An event with one field, as a declared type."""

    key: str
    value: float


def measure_floors(effort: Effort) -> None:
    """Print the cost of parsing alone for each library."""
    batches = stored_batches(100, 1_000)
    ways: list[tuple[str, Callable[[bytes], object]]] = [
        ("msgspec decode_lines, dictionaries: the floor", msgspec.json.Decoder().decode_lines),
        ("msgspec decode_lines, a Struct known beforehand", msgspec.json.Decoder(Line).decode_lines),
        ("orjson, line by line", lambda batch: [orjson.loads(line) for line in batch.split(b"\n")]),
        ("json, line by line", lambda batch: [json.loads(line) for line in batch.split(b"\n")]),
        ("ColumnReader, schema learned", ColumnReader().read),
    ]
    table = Table(
        "parsing alone, 1,000 keys, batches of 1,000",
        ("what", "floor", "ns/event", "of the floor's speed"),
        batches[0].split(b"\n")[0].decode(),
    )
    floor = floor_of(batches)
    for name, decode in ways:
        base, took = beside(floor, partial(decode_each, batches, decode), 5, effort.repeats)
        table.add(name, ns(base, 5 * len(batches) * BATCH), ns(took, 5 * len(batches) * BATCH), f"{base / took:.0%}")
    table.print()


@dataclass(frozen=True)
class Costs:
    """Costs of a new engine's first second, of counting, and of counting with frames; bytes of frames per second."""

    cold: Pair
    bare: Pair
    frames: Pair
    sent: float


def run_case(case: Case, quantiles: bool, effort: Effort) -> Costs:
    """Feed an engine until its windows are full, then measure minutes."""
    batches = stored_batches(500 if case.keys > 10_000 else 100, case.keys, case.fields, dressed=case.dressed)
    feed = Feed(settings(case.windows, quantiles, case.keys))
    floor = floor_of(batches[:100])

    def measure(pieces: int, repeats: int, *, ticking: bool = False) -> Pair:
        count = effort.piece if pieces > 1 else 100
        run = partial(feed.run, batches, count, RATE_STEP, ticking=ticking)
        base, took = beside(floor, run, pieces, repeats)
        return base / (pieces * 100 * BATCH), took / (pieces * count * BATCH)

    floor()
    cold = measure(1, 1)
    longest = max(Window.parse(window).length for window in case.windows)
    step = max(RATE_STEP, longest // 3_000) * effort.part
    feed.run(batches, longest // step, step)
    bare = measure(6, effort.repeats)
    feed.watch()
    feed.run(batches, 100, RATE_STEP, ticking=True)
    feed.bytes, started = 0, feed.now
    frames = measure(6, effort.repeats, ticking=True)
    return Costs(cold, bare, frames, feed.bytes / ((feed.now - started) / 1_000))


def measure_bytes(effort: Effort) -> None:
    measure_floors(effort)
    table = Table(
        "bytes to statistics",
        ("case", "quantiles", "floor", "cold", "bare", "frames", "bare", "frames", "target", "bare", "frames", "MB/s"),
        "ns per event; speed as a share of the floor's, measured in turns. 100,000 events a second of arrival, full\n"
        "windows, all watched; cold is the first second of a new engine, MB/s what the frames take.",
    )
    ratios = Table("quantiles: cost with / cost without", ("case", "bare", "frames", "target", "bare", "frames"))
    limit = Target("<= 1.6", 1.6, least=False)
    for case in CASES:
        plain, full = (run_case(case, quantiles, effort) for quantiles in (False, True))
        for label, costs in (("no", plain), ("yes", full)):
            table.add(*case_line(case, label, costs))
        both = share(plain.bare) / share(full.bare), share(plain.frames) / share(full.frames)
        ratios.add(case.name, *(f"{ratio:.2f}" for ratio in both), limit.text, *map(limit.verdict, both))
    table.print()
    ratios.print()


def case_line(case: Case, quantiles: str, costs: Costs) -> tuple[str, ...]:
    shares = share(costs.bare), share(costs.frames)
    verdicts = ("", "", "") if case.target is None else (case.target.text, *map(case.target.verdict, shares))
    cells = [ns(cost, 1) for cost in (costs.bare[0], costs.cold[1], costs.bare[1], costs.frames[1])]
    return (case.name, quantiles, *cells, *(f"{part:.0%}" for part in shares), *verdicts, f"{costs.sent / 1e6:.2f}")


# -- objects


def object_batches(kind: str, count: int, keys: int) -> list[list[Line]] | list[list[dict[str, object]]]:
    random, names = np.random.default_rng(2), key_names(keys)
    pairs = [
        [(names[key], float(value)) for key, value in zip(chosen, draw_values(random, BATCH), strict=True)]
        for chosen in random.integers(0, keys, (count, BATCH))
    ]
    if kind == "structs":
        return [[Line(*pair) for pair in batch] for batch in pairs]
    return [[{"key": key, "value": value} for key, value in batch] for batch in pairs]


def structs_to_columns(batch: Sequence[Line]) -> Columns:
    return columns_of([line.key for line in batch], [line.value for line in batch])


def dicts_to_columns(batch: Sequence[dict[str, Any]]) -> Columns:
    return columns_of([line["key"] for line in batch], [line["value"] for line in batch])


def run_objects(kind: str, rate: int, quantiles: bool, effort: Effort) -> tuple[Pair, Pair]:
    """Return seconds per event of parsing, of counting and of counting with frames: 1,000 keys, a full minute."""
    batches = object_batches(kind, 50, 1_000)
    convert: Callable[[Any], Columns] = structs_to_columns if kind == "structs" else dicts_to_columns
    feed, step, stored = Feed(settings(quantiles=quantiles)), BATCH * 1_000 // rate, stored_batches(50, 1_000)
    rotation = min(60_000 // step, effort.of(600))

    def turn(count: int, ticking: bool) -> None:
        for number in range(count):
            feed.apply(convert(batches[number % len(batches)]), step, ticking=ticking)
        feed.settle()

    def measure(ticking: bool) -> Pair:
        base, took = beside(floor_of(stored), partial(turn, rotation, ticking), 2, 2 * effort.repeats)
        return base / (2 * len(stored) * BATCH), took / (2 * rotation * BATCH)

    turn(60_000 // step, False)
    bare = measure(False)
    feed.watch()
    turn(rotation, True)
    return bare, measure(True)


@dataclass(frozen=True)
class Peer:
    """A run of peers.py, and the factor by which pushsvc must be faster, for each kind of object."""

    name: str
    rate: int
    targets: dict[str, float | None]


PEERS = (
    Peer("river", 1_000, {"structs": 20, "dicts": 8}),
    Peer("river", 10_000, {"structs": 20, "dicts": 8}),
    Peer("river-unexpired", 100_000, {"structs": 20, "dicts": 8}),
    Peer("streamz", 1_000, {"structs": 100, "dicts": None}),
    Peer("streamz", 10_000, {"structs": 100, "dicts": None}),
    Peer("bytewax", 1_000, {"structs": 1_000, "dicts": None}),
    Peer("bytewax", 10_000, {"structs": 1_000, "dicts": None}),
    Peer("quixstreams", 1_000, {"structs": 1_000, "dicts": None}),
)


def run_peer(name: str, rate: int, effort: Effort) -> Pair | str:
    """Return seconds per event of parsing and of the peer, or the reason why it cannot be measured."""
    command = [sys.executable, str(Path(__file__).with_name("peers.py")), name, str(rate), str(effort.part)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    except subprocess.TimeoutExpired:
        return "not done in 600 s"
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    floor, cost = map(float, done.stdout.split()[-2:])
    return floor, cost


def measure_objects(effort: Effort) -> None:
    table = Table(
        "objects to statistics, against peers",
        ("ours / the peer's", "bare", "frames", "peer", "bare", "frames", "target", "bare", "frames"),
        "ns per event and how many times as fast; 1,000 keys, a full window of a minute, by events a second of event\n"
        "time. Ours: seven statistics, batches of 1,000, counted only and with frames each batch or 100 ms. Each side\n"
        "is divided by the floor that its own process measured beside it.",
    )
    for peer in PEERS:
        cost = run_peer(peer.name, peer.rate, effort)
        if isinstance(cost, str):
            table.add(f"{peer.name}, {peer.rate:,}/s", "", "", f"not measured: {cost}", "", "", "", "", "")
            continue
        for kind, bound in peer.targets.items():
            for quantiles in (False, True):
                name = f"{kind}{', quantiles' if quantiles else ''} / {peer.name}, {peer.rate:,}/s"
                table.add(name, *peer_line(run_objects(kind, peer.rate, quantiles, effort), cost, bound))
    table.print()


def peer_line(ours: tuple[Pair, Pair], cost: Pair, bound: float | None) -> tuple[str, ...]:
    ratios = [share(own) / share(cost) for own in ours]
    target = None if bound is None else Target(f">= {bound:,} x", bound)
    verdicts = ("", "", "") if target is None else (target.text, *map(target.verdict, ratios))
    return (*(ns(own[1], 1) for own in ours), ns(cost[1], 1), *(f"{ratio:,.0f}" for ratio in ratios), *verdicts)


# -- flat


LENGTHS = ("10s", "1m", "5m", "15m", "1h", "6h", "24h")
LOADS = (1_000, 10_000, 100_000)
"""Events per pane."""


def measure_flat(effort: Effort, plot: Path | None = None) -> None:
    loads = list(dict.fromkeys(max(BATCH, effort.of(load)) for load in LOADS))
    drawn: dict[str, list[list[float]]] = {}
    for quantiles in (False, True):
        label = "with quantiles" if quantiles else "without quantiles"
        table = Table(
            f"cost per event against the window, {label}",
            ("window", *(f"{load:,}" for load in loads), *(f"{load:,} / {LENGTHS[0]}" for load in loads)),
            "ns per event of ``apply`` (read before), by events per pane, and as a multiple of the shortest window's,\n"
            "measured in turns; 1,000 keys, full windows, every pane passes.",
        )
        grid = [[flat_cost(length, load, quantiles) for load in loads] for length in LENGTHS]
        for length, row in zip(LENGTHS, grid, strict=True):
            table.add(length, *(ns(cost, 1) for cost, _ in row), *(f"{multiple:.2f}" for _, multiple in row))
        table.print()
        drawn[label] = [[row[number][1] for row in grid] for number in range(len(loads))]
    if plot:
        draw(plot, loads, drawn)


def flat_cost(length: str, load: int, quantiles: bool) -> tuple[float, float]:
    """Return seconds per event of a window with ``load`` events per pane, and their ratio to those of the shortest.

    Both are measured in alternation, and the result is a median: the speed of a machine may change within minutes.
    """
    (shortest, few), (run, many) = (full_rotation(one, load, quantiles) for one in (LENGTHS[0], length))
    turns = [(cpu(shortest) / few, cpu(run) / many) for _ in range(max(5, min(11, 2_000_000 // many)))]
    return min(cost for _, cost in turns), median(cost / base for base, cost in turns)


def full_rotation(length: str, load: int, quantiles: bool) -> tuple[Callable[[], None], int]:
    """Return a function that rotates a full window once, with ``load`` events per pane, and the number of events."""
    window, reader = Window.parse(length), ColumnReader()
    pool = [reader.read(batch) for batch in stored_batches(20, 1_000)]
    feed = Feed(settings((length,), quantiles))
    batches = load // BATCH * window.panes
    step = window.length // batches

    def rotate() -> None:
        for number in range(batches):
            feed.apply(pool[number % len(pool)], step)
        feed.settle()

    rotate()
    return rotate, batches * BATCH


def draw(path: Path, loads: Sequence[int], drawn: dict[str, list[list[float]]]) -> None:
    """Draw the ratios, one line for each load."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(drawn), figsize=(10, 4), sharey=True)
    for axis, (label, columns) in zip(axes, drawn.items(), strict=True):
        for load, column in zip(loads, columns, strict=True):
            axis.plot(LENGTHS, column, marker="o", label=f"{load:,} events per pane")
        axis.set(title=label, xlabel="length of the window")
        axis.grid(alpha=0.3)
    axes[0].set(ylabel=f"cost per event / that of {LENGTHS[0]}", ylim=(0, 2))
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


# -- late


def measure_late(effort: Effort) -> None:
    table = Table(
        "late events",
        ("windows", "quantiles", "0 %", "10 %", "100 %", "10 % / 0 %", "100 % / 0 %"),
        "ns per event of ``apply``, by the share that is late by up to 30 s; each event with its time, 1,000 keys,\n"
        "100,000 events a second of arrival.",
    )
    for windows in (("1m",), THREE):
        for quantiles in (False, True):
            costs = [late_cost(windows, quantiles, share, effort) for share in (0.0, 0.1, 1.0)]
            ratios = (f"{cost / costs[0]:.1f}" for cost in costs[1:])
            table.add(str(len(windows)), "yes" if quantiles else "no", *(ns(cost, 1) for cost in costs), *ratios)
    table.print()


def late_cost(windows: tuple[str, ...], quantiles: bool, share: float, effort: Effort) -> float:
    """Return seconds per event if a share of them is late. The engine first gets events for as many seconds."""
    random, reader = np.random.default_rng(3), ColumnReader()
    pool = []
    for batch in stored_batches(50, 1_000):
        late = np.where(random.random(BATCH) < share, random.integers(0, 30_000, BATCH), 0)
        pool.append((reader.read(batch), late))
    feed = Feed(settings(windows, quantiles))

    def run(count: int) -> None:
        for number in range(count):
            events, late = pool[number % len(pool)]
            times = feed.now + RATE_STEP - late
            feed.apply(Columns(events.keys, times, events.fields), RATE_STEP)
        feed.settle()

    run(effort.of(3_000))
    return least(partial(run, effort.of(1_000)), effort.repeats) / (effort.of(1_000) * BATCH)


QUESTIONS: dict[str, Callable[[Effort], None]] = {
    "bytes": measure_bytes,
    "objects": measure_objects,
    "snapshot": measure_snapshot,
    "memory": measure_memory,
    "topics": measure_topics,
    "flat": measure_flat,
    "late": measure_late,
    "values": measure_values,
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the statistics engine.")
    parser.add_argument("--quick", action="store_true", help="a tenth of the events")
    parser.add_argument("--only", choices=QUESTIONS, help="one question")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the table flat (needs matplotlib)")
    given = parser.parse_args()
    effort = QUICK if given.quick else FULL
    if given.only == "flat":
        measure_flat(effort, given.plot)
    elif given.only:
        QUESTIONS[given.only](effort)
    else:
        return run_all(sys.argv[1:])
    return 0


def run_all(arguments: Sequence[str]) -> int:
    """Run every benchmark in a process of its own."""
    print(machine(), flush=True)
    commands = [[sys.executable, __file__, "--only", name, *arguments] for name in QUESTIONS]
    return max(subprocess.run(command, check=False).returncode for command in commands)


if __name__ == "__main__":
    sys.exit(main())
