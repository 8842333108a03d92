"""The engine over many rows, topics and panes, against arrays of all events."""

import numpy as np
import pytest

from pushsvc.stats.rows import COUNT
from support.effort import rounds
from support.reference.engine import WINDOWS, CheckedEngine, T


@pytest.mark.parametrize("keys", [3, 3_000])
def test_rows_equal_the_events_in_the_window(keys):
    random, checked, now = np.random.default_rng(keys), CheckedEngine(keys), T
    for step in range(rounds(300)):
        now += int(random.choice([0, 40, 700, 1_000, 5_000, 30_000], p=[0.2, 0.3, 0.2, 0.2, 0.09, 0.01]))
        checked.engine.advance(now)
        size = int(random.integers(1, rounds(300)))
        disorder = random.choice([0, 0, 400, 15_000])
        times = now + random.integers(-disorder, 1 + disorder // 4, size)
        checked.put(step % 2, times, random.integers(0, keys, size), random.integers(-8_000, 8_000, size) / 8)
        if step % 7 == 0:
            for window in range(len(WINDOWS)):
                sample = [None, *random.integers(0, keys, 5).tolist()]
                checked.check(window, step // 7 % 2, sample)


def test_dropped_topic_leaves_nothing_to_its_successor():
    random, checked = np.random.default_rng(1), CheckedEngine(50)
    for second in range(100) if rounds(100) == 100 else range(59, 63):
        checked.engine.advance(T + second * 1_000)
        for topic in (0, 1):
            times = T + second * 1_000 + random.integers(-20_000, 3_000, 40)
            checked.put(topic, times, random.integers(0, 50, 40), random.integers(0, 99, 40) / 8)
        if second == 60:
            checked.engine.drop_topic(checked.topics[0])
            checked.topics[0] = checked.engine.rows.add_topic(10_000, 4)
            checked.events[0] = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
        if second in (61, 63, 80, 99):
            for window in range(len(WINDOWS)):
                for topic in (0, 1):
                    checked.check(window, topic, [None, *range(0, 50, 250 // rounds(50))])


def test_division_into_batches_does_not_matter():
    random = np.random.default_rng(2)
    whole, apart = CheckedEngine(5), CheckedEngine(5)
    for second in range(0, rounds(300), 3):
        times = T + second * 1_000 + random.integers(-30_000, 4_000, 60)
        keys, values = random.integers(0, 5, 60), random.integers(-999, 999, 60) / 8
        for checked, sizes in ((whole, [60]), (apart, [1, 7, 52])):
            checked.engine.advance(T + second * 1_000)
            start = 0
            for size in sizes:
                taken = slice(start, start + size)
                checked.put(0, times[taken], keys[taken], values[taken])
                checked.engine.settle()
                start += size
    keys = whole.topics[0].key_numbers([None, *whole.names])
    ours, theirs = ([checked.topics[0].rows(field, keys) for field in (COUNT, 1)] for checked in (whole, apart))
    for window in range(len(WINDOWS)):
        for mine, other in zip(ours, theirs, strict=True):
            assert np.array_equal(whole.engine.counts(window, mine), apart.engine.counts(window, other))
        statistics, others = whole.engine.read(window, ours[1]), apart.engine.read(window, theirs[1])
        exact = [0, 2, 3, 5, 6]
        assert np.array_equal(statistics[exact], others[exact], equal_nan=True)
        assert np.allclose(statistics, others, rtol=1e-14, atol=0, equal_nan=True)
