"""The cost of windows that keep their events, beside a window of panes: ``python benchmarks/recent.py``.

Each window gets batches of 100 events, 100 ms apart, and emits a frame after each, as for a subscriber. Counting and
frames with their JSON are measured separately, in alternation with a window of panes of one minute. First each event
has a number, then a number and one of 5,000 names, whose cost in panes values.py shows.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from measure import QUANTILES, Feed, Table, columns_of, cpu, draw_values, key_names, machine, ms, ns, settings
from pushsvc.event.columns import Columns, ValueColumn
from pushsvc.settings import TopicSettings

BATCH, STEP = 100, 100
CASES = [("last 100", False), ("last 1000", False), ("last 10000", False), ("last 60000", False), ("1m", True)]
WARM, MEASURED = 700, 100
USERS = 5_000
OF_VALUES = ("distinct", "top", "first", "last")


def batches_of(keys: int, named: bool) -> list[Columns]:
    random, names = np.random.default_rng(1), key_names(keys)
    batches = []
    for _ in range(50):
        chosen = [names[number] for number in random.integers(0, keys, BATCH)]
        users = [f"user-{number}" for number in random.zipf(1.3, BATCH) % USERS]
        values = {"user": ValueColumn(users, False)} if named else {}
        batches.append(dataclasses.replace(columns_of(chosen, draw_values(random, BATCH)), values=values))
    return batches


class Measured:
    """An engine with one window, and the seconds of ``MEASURED`` turns."""

    def __init__(self, window: str, exact: bool, named: bool) -> None:
        chosen: TopicSettings = dataclasses.replace(settings((window,)), exact=exact)
        if named:
            chosen = dataclasses.replace(chosen, values=("user",), statistics=(*QUANTILES, *OF_VALUES))
        self.feed, self.window, self.counting, self.telling = Feed(chosen), window, 0.0, 0.0

    def turn(self, events: Columns, *, measure: bool) -> None:
        counting = cpu(lambda: self.feed.apply(events, STEP))
        telling = cpu(self._emit)
        if measure:
            self.counting += counting
            self.telling += telling

    def _emit(self) -> None:
        for frame in self.feed.engine.flush(self.feed.now):
            frame.to_json(self.feed.now)


def measure_case(table: Table, window: str, exact: bool, keys: int, named: bool) -> None:
    batches, one, panes = batches_of(keys, named), Measured(window, exact, named), Measured("1m", False, named)
    for number in range(WARM + MEASURED):
        for each in (one, panes):
            each.turn(batches[number % len(batches)], measure=number >= WARM)
    held = one.feed.engine.snapshot("topic", window).rows[0][2]
    table.add(
        f"{window}, exact" if exact else window,
        f"{keys:,}",
        f"{held:,}",
        ns(one.counting, BATCH * MEASURED),
        f"{one.counting / panes.counting:.2f}",
        ms(one.telling / MEASURED),
        f"{one.telling / panes.telling:.2f}",
    )


def main() -> None:
    print(machine())
    header = ("window", "keys", "events held", "ns/event", "x panes", "ms/frame", "x panes")
    for named, title in ((False, "windows that keep their events"), (True, f"with {', '.join(OF_VALUES)} of a name")):
        table = Table(title, header, "x panes: beside a window of panes, 1m, in turns.")
        for window, exact in CASES:
            for keys in (16, 1_000):
                measure_case(table, window, exact, keys, named)
        table.print()


if __name__ == "__main__":
    main()
