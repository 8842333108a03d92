"""An engine with two topics, and arrays of all their events."""

import numpy as np
import pytest

from pushsvc.stats.engine import Engine, EngineOptions
from pushsvc.stats.rows import COUNT
from pushsvc.stats.window import Window

T = 1_700_000_000_000
WINDOWS = tuple(map(Window.parse, ("10s", "1m", "2m")))
PERCENTS = (50, 95)


class CheckedEngine:
    """An engine with two topics, whose field is ``x`` and whose keys are k0, k1 …"""

    def __init__(self, keys):
        self.engine = Engine(EngineOptions(WINDOWS, PERCENTS), T)
        self.topics = [self.engine.rows.add_topic(10_000, 4) for _ in range(2)]
        self.names = [f"k{n}" for n in range(keys)]
        self.events = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)) for _ in self.topics]

    def put(self, topic, times, keys, values):
        table = self.topics[topic]
        numbers = table.key_numbers([self.names[key] for key in keys])
        events = self.engine.begin_entry(table, 0, times, None)
        self.engine.put(events, table.rows(COUNT, numbers), None)
        self.engine.put(events, table.rows(table.field("x"), numbers), values)
        self.events[topic] = tuple(map(np.concatenate, zip(self.events[topic], (times, keys, values), strict=True)))

    def check(self, window, topic, keys):
        """Compare the rows of keys with the events; None is the total."""
        table, (times, owners, values) = self.topics[topic], self.events[topic]
        (covered,) = self.engine.time_ranges(window, [table])
        inside = (covered.start <= times) & (times < covered.end)
        numbers = table.key_numbers([None if key is None else self.names[key] for key in keys])
        rows = table.rows(table.field("x"), numbers)
        counts = self.engine.counts(window, rows).tolist()
        assert self.engine.counts(window, table.rows(COUNT, numbers)).tolist() == counts
        for key, count, statistics in zip(keys, counts, self.engine.read(window, rows).T.tolist(), strict=True):
            mine = np.sort(values[inside & (True if key is None else owners == key)])
            assert count == len(mine)
            assert statistics[0] == mine.sum()
            if not count:
                continue
            assert statistics[2:4] == [mine[0], mine[-1]]
            for percent, quantile in zip(PERCENTS, statistics[5:], strict=True):
                exact = mine[-(-percent * count // 100) - 1]
                assert quantile == (exact if count <= 16 else pytest.approx(exact, rel=1 / 128, abs=0))
            if count > 1:
                assert statistics[4] == pytest.approx(np.std(mine, ddof=1), rel=1e-11)
