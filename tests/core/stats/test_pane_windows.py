"""The engine over rows of two topics, step by step."""

import numpy as np

from pushsvc.stats.rows import COUNT
from support.reference.engine import WINDOWS, CheckedEngine, T


def put(checked, topic, now, *events):
    """Put events: (ms from now, key, value)."""
    shifts, keys, values = zip(*events, strict=True)
    checked.put(topic, now + np.array(shifts), np.array(keys), np.array(values, float))


def check(checked):
    for window in range(len(WINDOWS)):
        for topic in (0, 1):
            checked.check(window, topic, [None, 0, 1, 2])


def test_rows_equal_the_events_in_the_window():
    checked, now = CheckedEngine(3), T
    for step in (0, 9_750, 61_000, 10**9):
        now += step
        checked.engine.advance(now)
        put(checked, 0, now, (0, 0, 1.5), (-300, 1, 4.0), (0, 0, -2.0))
        put(checked, 1, now, (0, 1, 8.0), (-15_000, 0, 0.5), (3_000, 2, 16.0))
        if step:
            check(checked)


def test_dropped_topic_leaves_nothing_to_its_successor():
    checked = CheckedEngine(3)
    for second in range(3):
        now = T + second * 1_000
        checked.engine.advance(now)
        for topic in (0, 1):
            put(checked, topic, now, (0, 0, 1.0 + second), (-12_000, 1, 2.0), (2_500, 2, 4.0))
        if second == 1:
            checked.engine.drop_topic(checked.topics[0])
            checked.topics[0] = checked.engine.rows.add_topic(10_000, 4)
            checked.events[0] = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
        else:
            check(checked)


def test_division_into_batches_does_not_matter():
    events = [(-20_000, 0, 0.5), (0, 1, 1.5), (-1, 0, -3.0), (0, 1, 7.0), (3_500, 0, 0.25), (0, 2, 9.0)]
    whole, apart = CheckedEngine(3), CheckedEngine(3)
    for now in (T, T + 14_000):
        for checked, parts in ((whole, [events]), (apart, [events[:1], events[1:4], events[4:]])):
            checked.engine.advance(now)
            for part in parts:
                put(checked, 0, now, *part)
                checked.engine.settle()
    keys = whole.topics[0].key_numbers([None, *whole.names])
    for window in range(len(WINDOWS)):
        for field in (COUNT, 1):
            counts = [checked.engine.counts(window, checked.topics[0].rows(field, keys)) for checked in (whole, apart)]
            assert counts[0].tolist() == counts[1].tolist()
        statistics, others = (
            checked.engine.read(window, checked.topics[0].rows(1, keys)) for checked in (whole, apart)
        )
        assert np.allclose(statistics, others, rtol=1e-14, atol=0, equal_nan=True)
        exact = [0, 2, 3, 5, 6]
        assert np.array_equal(statistics[exact], others[exact], equal_nan=True)
