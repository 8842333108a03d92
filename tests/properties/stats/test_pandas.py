"""Frames against pandas' rolling windows over the same events, bit for bit.

Values are multiples of 1/8, so that sums are exact in any order. pandas has no clock: a row without a value, at the
time of the frame, shows the contents of its window.
"""

import dataclasses

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from pushsvc.stats.window import Window
from support.reference.numbers import EVENT_CLOCK, NOW, Producer, T, event, rows_of, topic

MINUTE = dataclasses.replace(NOW, windows=(Window.parse("1m"), Window.parse("10s")))
EXACT = dataclasses.replace(MINUTE, exact=True)
BOUNDARY = T - T % 1_000

shifts = st.one_of(st.just(0), st.integers(-2_000, 4_000), st.integers(-75_000, 4_000))
eighths = st.integers(-(2**30), 2**30).map(lambda k: k / 8)
batches = st.lists(st.tuples(shifts, st.sampled_from("abc"), eighths), max_size=10)


def expected(log, key, at, closed):
    """Return pandas' count, sum, min and max at the time ``at`` (ms) of one key, or of all keys with None."""
    events = [(time, data["x"]) for time, owner, data in log if key in (None, owner)]
    # Among rows of one time, pandas ends a window at the row itself if closed there, else at the first of them.
    order = 0 if closed == "left" else 2
    rows = sorted([(time, 1, value) for time, value in events] + [(at, order, float("nan"))])
    here = next(number for number, row in enumerate(rows) if row[1] == order)
    series = pd.Series([row[2] for row in rows], index=pd.to_datetime([row[0] for row in rows], unit="ms"))
    window = series.rolling("60s", closed=closed)
    count = int(window.count().fillna(0).iloc[here])  # pandas counts an empty window as NaN
    return [count, *(getattr(window, name)().iloc[here] for name in ("sum", "min", "max"))] if count else [0]


def ours(frame, key):
    """Return count, sum, min and max of a frame's row."""
    row = rows_of(frame).get((key, "x"), [0])
    return [row[0], row[2], row[4], row[5]] if row[0] else [0]


def assert_as_pandas(producer, frame, at, closed):
    for key in (None, "a", "b", "c"):
        assert ours(frame, key) == expected(producer.log, key, at, closed), key


@given(st.lists(st.tuples(st.sampled_from([1, 1, 2, 9, 60, 61, 140]), batches), min_size=1, max_size=12))
def test_window_at_a_pane_boundary_equals_pandas_closed_left(series):
    """At the last ms of a pane all events before the boundary have been read: late ones, early ones or none."""
    producer, boundary = Producer(topic(MINUTE, BOUNDARY)), BOUNDARY
    for panes, batch in series:
        boundary += panes * 1_000
        if batch:
            arrival = boundary - 700
            producer.send(arrival, *[event(arrival + shift, key, x=value) for shift, key, value in batch])
        producer.aggregate.advance(boundary - 1)
        frame = producer.aggregate.snapshot("1m")
        assert frame.end == boundary
        assert_as_pandas(producer, frame, boundary, "left")


gaps = st.sampled_from([1, 7, 250, 999, 1_000, 9_999, 59_999, 60_000, 130_000])


@given(st.lists(st.tuples(gaps, batches), min_size=1, max_size=12))
def test_exact_window_equals_pandas_closed_right(series):
    producer, now = Producer(topic(EXACT)), T
    for gap, batch in series:
        now += gap
        if batch:
            producer.send(now, *[event(now + shift, key, x=value) for shift, key, value in batch])
        producer.aggregate.advance(now)
        frame = producer.aggregate.snapshot("1m")
        assert (frame.start, frame.end) == (now - 59_999, now + 1)
        assert_as_pandas(producer, frame, now, "right")


@given(st.lists(st.tuples(gaps, batches), min_size=1, max_size=12))
def test_exact_window_on_the_event_clock_ends_at_the_newest_event(series):
    options = dataclasses.replace(EVENT_CLOCK, windows=EXACT.windows, exact=True)
    producer, now = Producer(topic(options)), T
    for gap, batch in series:
        now += gap
        if batch:
            producer.send(T, *[event(now + shift, key, x=value) for shift, key, value in batch])
            newest = max(time for time, _, _ in producer.log)
            assert_as_pandas(producer, producer.aggregate.snapshot("1m"), newest, "right")
