"""Shared by the benchmarks: CPU time, tables, and an engine with a simulated clock.

Times are CPU seconds of this process, so other processes do not count, and the least of several runs: a disturbance
makes a run slower, never faster.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import orjson
from numpy.typing import ArrayLike, NDArray

from pushsvc.aggregate.aggregate import Aggregate
from pushsvc.event.columns import ColumnReader, Columns, NumberColumn
from pushsvc.pause import no_pause
from pushsvc.settings import TopicSettings
from pushsvc.stats.window import Window

Result = TypeVar("Result")

STAT = Path("/proc/stat")

BATCH = 1_000
"""Events in a batch."""

START = 1_700_000_000_000
"""The start of every simulated clock in ms."""

TICK = 100
"""Milliseconds of arrival time between two calls of ``due``."""

THREE = ("1m", "5m", "15m")
"""The default windows of a topic."""

QUANTILES = ("p50", "p95", "p99")


@dataclass(frozen=True)
class Effort:
    """The amount of work: rotations of the window, repeats, and a divisor of all sizes."""

    repeats: int
    part: int

    @property
    def piece(self) -> int:
        """Return the batches between two measurements of the floor: one or two seconds of arrival, a batch every 10 ms.

        6 pieces and 2 repeats make 12 samples of at least 100,000 events; more do not change the result.
        """
        return max(100, self.of(200))

    def of(self, size: int) -> int:
        return max(1, size // self.part)


FULL, QUICK = Effort(2, 1), Effort(2, 10)


Pair = tuple[float, float]
"""Seconds per event of the floor and of the measured code, in alternation."""


def share(pair: Pair) -> float:
    return pair[0] / pair[1]


def cpu(run: Callable[[], object]) -> float:
    """Return the CPU seconds of one run."""
    before = time.process_time()
    run()
    return time.process_time() - before


def least(run: Callable[[], object], repeats: int) -> float:
    """Return the CPU seconds of the fastest of several runs."""
    return min(cpu(run) for _ in range(repeats))


def beside(floor: Callable[[], object], run: Callable[[], object], pieces: int, repeats: int) -> tuple[float, float]:
    """Return the CPU seconds of ``pieces`` runs and of as many alternating floors, from the fastest repeat.

    A virtual machine may be twice as fast a minute later, so values of a ratio must be measured in alternation.
    """
    pairs = []
    for _ in range(repeats):
        turns = [(cpu(floor), cpu(run)) for _ in range(pieces)]
        pairs.append((sum(turn[1] for turn in turns), sum(turn[0] for turn in turns)))
    took, base = min(pairs)
    return base, took


def apart(function: Callable[..., Result], *arguments: object) -> Result:
    """Return the result of a function in a new process with no other data in its memory."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def resident() -> int:
    """Return the resident bytes of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def machine() -> str:
    """Return the properties of the machine and the software that the results depend on."""
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, numpy {np.__version__}, "
        f"msgspec {msgspec.__version__}, orjson {orjson.__version__}"
    )


# -- tables


@dataclass(frozen=True)
class Target:
    """A goal: ``ratio`` must be at least (or at most) ``bound``; ``text`` describes it."""

    text: str
    bound: float
    least: bool = True

    def verdict(self, value: float) -> str:
        return "holds" if (value >= self.bound if self.least else value <= self.bound) else "MISSED"


def processor_time() -> tuple[int, int]:
    """Return the time that the host took from all processors together, and the time that they worked (proc(5)); zeros
    if the system does not report them."""
    if not STAT.exists():
        return 0, 0
    user, nice, system, _idle, _waiting, interrupts, soft, stolen = map(int, STAT.read_text().split()[1:9])
    return stolen, user + nice + system + interrupts + soft


@dataclass
class Table:
    """Lines of text in columns, printed when complete; the first column is left-aligned, the others right.

    On a virtual machine, a line shows the share of processor time that the host took while the table was measured.
    """

    title: str
    header: Sequence[str]
    note: str = ""
    lines: list[Sequence[str]] = field(default_factory=list)
    started: tuple[int, int] = field(default_factory=processor_time)

    def add(self, *cells: str) -> None:
        self.lines.append(cells)

    def print(self) -> None:
        cells = [self.header, *self.lines]
        widths = [max(len(line[column]) for line in cells) for column in range(len(self.header))]
        print(f"\n## {self.title}\n")
        if self.note:
            print(self.note + "\n")
        for line in cells:
            first, *others = (
                cell.rjust(width) if n else cell.ljust(width)
                for n, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            print("  ".join((first, *others)).rstrip())
        stolen, worked = (now - then for now, then in zip(processor_time(), self.started, strict=True))
        if stolen:
            print(f"\nThe host took {stolen / (stolen + worked):.1%} of the time for which something was to be done.")
        print(flush=True)


def ns(seconds: float, events: int) -> str:
    return f"{seconds / events * 1e9:,.0f}"


def ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.2f}"


# -- events


def decode_each(batches: Sequence[bytes], decode: Callable[[bytes], object]) -> None:
    for batch in batches:
        decode(batch)


def floor_of(batches: Sequence[bytes]) -> Callable[[], None]:
    """Return the CPU seconds of the floor: parsing alone, into dictionaries."""
    return partial(decode_each, batches, msgspec.json.Decoder().decode_lines)


def floor_now() -> float:
    """Return seconds per event of parsing alone at the present speed of the machine."""
    return least(floor_of(stored_batches(20, 1_000)), 10) / (20 * BATCH)


def settings(windows: Iterable[str] = ("1m",), quantiles: bool = True, keys: int = 10_000) -> TopicSettings:
    """Return the default settings with these windows and quantiles, and room for that many keys."""
    return TopicSettings(
        windows=tuple(map(Window.parse, windows)),
        statistics=QUANTILES if quantiles else (),
        max_keys=max(keys, 10_000),
    )


def key_names(keys: int) -> list[str]:
    return [f"key-{number}" for number in range(keys)]


def draw_values(random: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Return multiples of a quarter around 100: they fill 130 buckets of the quantiles, and their sums are exact."""
    return np.round(random.normal(100.0, 12.0, count) * 4) / 4


def stored_batches(count: int, keys: int, fields: int = 1, *, dressed: bool = False) -> list[bytes]:
    """Return batches in their stored form; if ``dressed``, each event has an id."""
    random, names = np.random.default_rng(1), key_names(keys)
    batches = []
    for batch in range(count):
        chosen = random.integers(0, keys, BATCH).tolist()
        values = [draw_values(random, BATCH).tolist() for _ in range(fields)]
        lines = []
        for number, key in enumerate(chosen):
            line: dict[str, object] = {"id": f"producer-1/{batch:06}{number:04}"} if dressed else {}
            line |= {"key": names[key], "value": values[0][number]}
            line |= {f"value{other}": values[other][number] for other in range(1, fields)}
            lines.append(orjson.dumps(line))
        batches.append(b"\n".join(lines))
    return batches


def columns_of(keys: Sequence[str], values: ArrayLike) -> Columns:
    """Return the columns of events with one field and without times."""
    return Columns([keys], None, {"value": NumberColumn(None, np.array(values, np.float64))})


# -- the engine


class Feed:
    """An engine with one topic and a simulated clock."""

    def __init__(self, chosen: TopicSettings, pause: Callable[[], None] = no_pause) -> None:
        self.engine = Aggregate(chosen, START, pause=pause)
        self.engine.open("topic", START)
        self.now = START
        self.offset = 0
        self.frames = 0
        self.bytes = 0
        self._reader = ColumnReader(chosen.key, chosen.values)
        self._tick = START + TICK
        self._windows = [window.name for window in chosen.windows]

    def watch(self) -> None:
        """Give every window a subscriber."""
        for window in self._windows:
            self.engine.watch("topic", window, True)

    def settle(self) -> None:
        """Count all events that were applied."""
        settle(self.engine)

    def run(self, batches: Sequence[bytes], count: int, step: float, *, ticking: bool = False) -> None:
        """Read and apply ``count`` batches, one every ``step`` ms, and count them; if ``ticking``, make frames too."""
        started, size = self.now, len(batches)
        for number in range(count):
            self.now = started + int((number + 1) * step)
            self.offset += BATCH
            self.engine.apply("topic", self.offset, self.now, self._reader.read(batches[number % size]))
            if ticking and self.now >= self._tick:
                self._ask()
        self.settle()

    def apply(self, events: Columns, step: int, *, ticking: bool = False) -> None:
        """Apply events ``step`` ms after the previous ones."""
        self.now += step
        self.offset += len(events)
        self.engine.apply("topic", self.offset, self.now, events)
        if ticking and self.now >= self._tick:
            self._ask()

    def _ask(self) -> None:
        self._tick = self.now + TICK
        self.engine.advance(self.now)
        for frame in self.engine.due(self.now):
            self.frames += 1
            self.bytes += len(frame.to_json(self.now))


def settle(engine: Aggregate) -> None:
    """Count all buffered events. The engine does that itself when the head moves or a frame is due."""
    engine._engine.settle()
