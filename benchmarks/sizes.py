"""Frames and memory of the engine: the benchmarks snapshot, memory and topics of aggregation.py."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Sequence
from functools import partial
from time import process_time

import numpy as np

from measure import (
    START,
    THREE,
    TICK,
    Effort,
    Feed,
    Table,
    Target,
    apart,
    columns_of,
    cpu,
    floor_now,
    key_names,
    least,
    ms,
    ns,
    resident,
    settings,
    settle,
)
from pushsvc.aggregate.aggregate import Aggregate
from pushsvc.aggregate.statistics_frame import Frame
from pushsvc.event.columns import Columns


def pane_of(names: Sequence[str], pane: int) -> Columns:
    """Return one event of every key; 50 panes give each key 50 buckets."""
    return columns_of(names, 100.0 + 0.5 * ((pane + np.arange(len(names))) % 50))


def fill(feed: Feed, names: Sequence[str], panes: int) -> None:
    for pane in range(panes):
        feed.apply(pane_of(names, pane), 1_000)
    feed.settle()


def measure_snapshot(effort: Effort) -> None:
    table = Table(
        "one snapshot with its JSON",
        ("keys", "quantiles", "changed", "rows", "JSON MB", "ms", "us/row", "target", ""),
        "``Aggregate.snapshot`` of one window, 60 events of each key in 60 panes, 50 buckets a key; a key has a row\n"
        f"of its field and one that counts its events. The floor at the time: {ns(floor_now(), 1)} ns.",
    )
    slices = Table(
        "the longest slice of a snapshot",
        ("keys", "quantiles", "slices", "median ms", "longest ms", "target", ""),
        "CPU time between two calls of ``pause``, every row changed; the least of each over the repeats.",
    )
    bounds = {(1_000, True): 1.5, (1_000, False): 1.5, (100_000, True): 180.0, (100_000, False): 60.0}
    for keys in (1_000, 100_000):
        names = key_names(keys)
        for quantiles in (False, True):
            watch = Watch()
            feed = Feed(settings(quantiles=quantiles, keys=keys), watch)
            fill(feed, names, 62)
            longest = [slices_of(feed, names, watch, number) for number in range(5 * effort.repeats)]
            most = Target("<= 5 ms", 5.0, least=False)
            count, median, last = (min(one) for one in zip(*longest, strict=True))
            kind = (f"{keys:,}", "yes" if quantiles else "no")
            slices.add(*kind, str(count), ms(median), ms(last), most.text, most.verdict(last * 1e3))
            target = Target(f"<= {bounds[keys, quantiles]:g} ms", bounds[keys, quantiles], least=False)
            for changed, best in zip(("all", "none"), snapshot_times(feed, names, 5 * effort.repeats), strict=True):
                frame = feed.engine.snapshot("topic", "1m")
                cells = (
                    f"{len(frame.rows):,}",
                    f"{frame.size / 1e6:.2f}",
                    ms(best),
                    f"{best * 1e6 / len(frame.rows):.2f}",
                )
                table.add(
                    f"{keys:,}", "yes" if quantiles else "no", changed, *cells, target.text, target.verdict(best * 1e3)
                )
    table.print()
    slices.print()


class Watch:
    """Records the times of its calls."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self) -> None:
        self.times.append(process_time())


def slices_of(feed: Feed, names: Sequence[str], watch: Watch, number: int) -> tuple[int, float, float]:
    """Return the number of slices of a snapshot after every row changed, and the median and the longest in seconds."""
    feed.apply(pane_of(names, number), 1_000)
    feed.settle()
    watch.times = [process_time()]
    feed.engine.snapshot("topic", "1m")
    watch()
    lengths = np.diff(watch.times)
    return len(lengths), float(np.median(lengths)), float(lengths.max())


def snapshot_times(feed: Feed, names: Sequence[str], repeats: int) -> tuple[float, float]:
    """Return the seconds of a snapshot after every row changed, and after no row changed."""
    all_changed, none_changed = [], []
    for number in range(repeats):
        feed.apply(pane_of(names, number), 1_000)
        feed.settle()
        all_changed.append(cpu(partial(feed.engine.snapshot, "topic", "1m")))
        none_changed.append(cpu(partial(feed.engine.snapshot, "topic", "1m")))
    return min(all_changed), min(none_changed)


def measure_memory(effort: Effort) -> None:
    keys = effort.of(20_000)
    table = Table(
        "memory per row and 60 panes",
        ("quantiles", "read", "least KB/row", "most KB/row", "last", "target", ""),
        f"tracemalloc, {keys:,} keys, 1 field, 1 window, an event in each of 60 panes, 50 buckets a key; while 60\n"
        "more panes pass. A row is (key, field); the row that counts its events and the key's names are included.",
    )
    for quantiles, bound in ((False, 3.5), (True, 4.5)):
        for read in (False, True):
            least_, most, last = (size / keys / 1_000 for size in memory_of(keys, quantiles, read))
            target = Target(f"<= {bound} KB", bound, least=False)
            cells = (f"{least_:.2f}", f"{most:.2f}", f"{last:.2f}", target.text, target.verdict(most))
            table.add("yes" if quantiles else "no", "each pane" if read else "never", *cells)
    table.print()


def memory_of(keys: int, quantiles: bool, read: bool) -> tuple[int, int, int]:
    """Return the least, the greatest and the last bytes of an engine while its window rotates."""
    names = key_names(keys)
    warm = Feed(settings(quantiles=quantiles))  # memory of modules that the first use imports must not count
    fill(warm, names[:10], 3)
    del warm
    gc.collect()
    tracemalloc.start()
    try:
        feed = Feed(settings(quantiles=quantiles, keys=keys))
        fill(feed, names, 61)
        held = []
        for pane in range(61, 122):
            feed.apply(pane_of(names, pane), 1_000)
            feed.settle()
            if read:
                feed.engine.snapshot("topic", "1m")
            held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    return min(held), max(held), held[-1]


# -- topics


TOPICS, TOPIC_KEYS = 10_000, 16


class ManyTopics:
    """Many small topics in one engine, with a subscriber for every window."""

    def __init__(self, windows: tuple[str, ...], quantiles: bool, topics: int) -> None:
        chosen = settings(windows, quantiles)
        self.names = [f"topic-{number}" for number in range(topics)]
        self.keys = key_names(TOPIC_KEYS)
        self.engine = Aggregate(chosen, START)
        self.now = START
        self.step = max(window.pane for window in chosen.windows)
        self._offset = 0
        for name in self.names:
            self.engine.open(name, START)
            for window in chosen.windows:
                self.engine.watch(name, window.name, True)

    def fill(self, panes: int) -> None:
        """Apply an event for every key of every topic in each pane of the longest window."""
        for pane in range(panes):
            self.now += self.step
            events = pane_of(self.keys, pane)
            for name in self.names:
                self.put(name, events)
        self.engine.flush(self.now)

    def put(self, name: str, events: Columns) -> None:
        self._offset += len(events)
        self.engine.apply(name, self._offset, self.now, events)

    def touch(self, topics: int) -> None:
        """Apply one event to each of that many topics."""
        self.now += TICK
        for number, name in enumerate(self.names[:topics]):
            self.put(name, columns_of([self.keys[number % TOPIC_KEYS]], [100.0]))

    def tick(self) -> tuple[float, int, int]:
        """Make all frames that are due; return seconds, frames and bytes."""
        self.now += TICK
        settle(self.engine)
        frames: list[Frame] = []
        took = cpu(lambda: frames.extend(self.engine.due(self.now)))
        return took, len(frames), sum(frame.size for frame in frames)


def measure_topics(effort: Effort) -> None:
    topics = effort.of(TOPICS)
    ticks = Table(
        "a tick of many topics",
        ("windows", "quantiles", "changed", "frames", "MB", "ms", "us/frame", "target", ""),
        f"{topics:,} topics of {TOPIC_KEYS} keys, all watched, full panes; ``due`` with its rows' JSON, once counted.\n"
        f"The floor at the time: {ns(floor_now(), 1)} ns.",
    )
    memory = Table(
        "memory of many topics",
        ("windows", "quantiles", "MB", "KB per key", "target", ""),
        "Growth of the process by engine and rows: one of the field and one that counts for each key.",
    )
    single = Table(
        "one event to each of many topics", ("windows", "quantiles", "us/event"), "``apply`` of batches of one event"
    )
    cap = Target("<= 512 MB", 512, least=False)
    for windows in (("1m",), THREE):
        for quantiles in (False, True):
            grown, each, lines = apart(run_topics, windows, quantiles, topics, effort.repeats)
            kind = (str(len(windows)), "yes" if quantiles else "no")
            memory.add(
                *kind, f"{grown:,.0f}", f"{grown * 1e3 / (topics * TOPIC_KEYS):.2f}", cap.text, cap.verdict(grown)
            )
            single.add(*kind, f"{each * 1e6:.1f}")
            for line in lines:
                ticks.add(*kind, *line)
    ticks.print()
    single.print()
    memory.print()


def run_topics(
    windows: tuple[str, ...], quantiles: bool, topics: int, repeats: int
) -> tuple[float, float, list[tuple[str, ...]]]:
    """Return MB, seconds per event of ``apply``, and the table rows of ticks."""
    before = resident()
    crowd = ManyTopics(windows, quantiles, topics)
    crowd.fill(60)
    grown = (resident() - before) / 1e6
    each = least(partial(crowd.touch, topics), repeats) / topics
    crowd.engine.flush(crowd.now)
    return grown, each, tick_lines(crowd, topics, repeats)


def tick_lines(crowd: ManyTopics, topics: int, repeats: int) -> list[tuple[str, ...]]:
    """Measure ticks within a pane after few and many events, and one after all panes moved on."""
    target, lines = Target("<= 50 ms", 50, least=False), []
    for share in (10, 1):
        ticks = []
        for _ in range(repeats):
            crowd.touch(topics // share)
            ticks.append(crowd.tick())
        lines.append(tick_line(f"{topics // share:,} events", min(ticks), target))
    crowd.now += crowd.step
    crowd.engine.advance(crowd.now)
    lines.append(tick_line("a pane left every row", crowd.tick(), target))
    return lines


def tick_line(changed: str, tick: tuple[float, int, int], target: Target) -> tuple[str, ...]:
    took, frames, size = tick
    per_frame = f"{took * 1e6 / max(frames, 1):.1f}"
    return (changed, f"{frames:,}", f"{size / 1e6:.2f}", ms(took), per_frame, target.text, target.verdict(took * 1e3))
