"""Arbitrary series of log entries: batches of late and early events, gaps, and the steps after which a reader reads."""

from hypothesis import strategies as st

from pushsvc.event import Event
from support.reference.numbers import Producer, T

keys = st.sampled_from(["a", "b", "c", None])
eighths = st.integers(-(2**30), 2**30).map(lambda k: k / 8)
data = st.dictionaries(st.sampled_from(["x", "y"]), eighths, max_size=2)
shifts = st.one_of(st.none(), st.integers(-3_000, 5_000), st.integers(-70_000, 5_000))
batches = st.lists(st.tuples(shifts, keys, data), min_size=1, max_size=12)
gaps = st.sampled_from([0, 1, 250, 999, 4_000, 11_000, 61_000])
steps = st.lists(st.tuples(gaps, st.one_of(st.just([]), batches), st.booleans()), min_size=1, max_size=12)


def play(aggregate, series, wall=True):
    """Apply a series of (gap, batch, read); yield the producer, the time, and whether a reader reads, after each."""
    producer, now = Producer(aggregate), T + 17
    for gap, batch, read in series:
        now += gap
        if batch:
            producer.send(now, *[Event(time=None if d is None else now + d, key=k, data=v) for d, k, v in batch])
        elif wall:
            aggregate.advance(now)
        yield producer, now, read


def play_split(whole, split, series, draws):
    """Play a series to two aggregates; the second gets each entry as several ones of arbitrary size."""
    for producer, now, read in play(whole, series):
        split.advance(now)
        missing = [Event(time=time, key=key, data=numbers) for time, key, numbers in producer.log[split.offset :]]
        while missing:
            size = draws.draw(st.integers(1, len(missing)))
            split.apply(split.offset + size, now, missing[:size])
            missing = missing[size:]
            if draws.draw(st.booleans()):
                split.flush(now)
        if read:
            whole.flush(now)
