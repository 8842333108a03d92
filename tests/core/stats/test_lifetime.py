"""The window of all events: sketches stay bounded, counts may pass 32 bits."""

import numpy as np
import pytest

from pushsvc.stats.engine import Engine, EngineOptions
from pushsvc.stats.lifetime import MOST_BUCKETS
from pushsvc.stats.panes.partials import RowPartial
from pushsvc.stats.window import LIFETIME, Window

PERCENTS = (1, 50, 99)


def engine_of():
    engine = Engine(EngineOptions((LIFETIME,), PERCENTS), 0)
    return engine, engine.rows.add_topic(100, 10)


def put(engine, topic, key, values):
    """Add values of a key, all at the ms 1."""
    times = np.ones(len(values), np.int64)
    ids = engine.sink.begin_entry(topic, 1, times, None)
    keys = topic.key_numbers([key] * len(values))
    engine.put(ids, topic.rows(0, keys), None)
    engine.put(ids, topic.rows(topic.field("n"), keys), np.array(values, np.float64))


def read(engine, topic):
    """Return sum … std and quantiles of the total of the field ``n``."""
    return engine.read(0, np.array([topic.totals()[topic.field("n")]]))[:, 0]


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize(("powers", "joined"), [(14, 0), (30, 1), (60, 2), (600, 6)])
def test_sketch_is_bounded_and_its_error_is_the_documented_one(powers, joined, sign):
    """Values over so many powers of two; each time the buckets are joined in pairs, the relative error doubles."""
    engine, topic = engine_of()
    values = sign * 2.0 ** np.random.default_rng(1).uniform(-powers / 2, powers / 2, 60_000)
    for part in np.split(values, 20):
        put(engine, topic, "k", part)
    exact = np.quantile(values, np.array(PERCENTS) / 100, method="inverted_cdf")
    found = read(engine, topic)[5:]
    assert (np.abs(found - exact) <= 2**joined / 128 * np.abs(exact)).all()
    assert (np.abs(found) <= np.abs(exact)).all()
    state = engine.partials(0, np.array([topic.totals()[topic.field("n")]]))[0]
    assert len(state.buckets) // 8 <= MOST_BUCKETS
    assert np.frombuffer(state.counts, np.int64).sum() == len(values)


def test_counts_may_pass_32_bits():
    engine, topic = engine_of()
    put(engine, topic, "k", [1.0] * 20)
    most = 2**40
    row = np.array([topic.totals()[topic.field("n")]], np.int64)
    (state,) = engine.partials(0, row)
    counts = np.array([most], np.int64).tobytes()
    engine.lifetime.load(row, [RowPartial(most, [float(most), 0.0, 0.0, 1.0, 1.0], state.buckets, counts)])
    put(engine, topic, "k", [1.0])
    assert engine.counts(0, row)[0] == most + 21
    assert read(engine, topic).tolist() == [most + 21, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0]


def test_window_has_an_engine_of_its_own():
    with pytest.raises(ValueError, match="of its own"):
        Engine(EngineOptions((Window.parse("1m"), LIFETIME)), 0)


def test_joined_buckets_stay_joined_in_another_engine():
    """Values are added to a loaded sketch, and taken out of it, in the buckets that it has."""
    engine, topic = engine_of()
    values = 2.0 ** np.random.default_rng(2).uniform(-40, 40, 20_000)
    put(engine, topic, "k", values)
    other, same = engine_of()
    same.field("n")
    row, theirs = (np.array([rows.totals()[rows.field("n")]], np.int64) for rows in (topic, same))
    other.lifetime.load(theirs, engine.partials(0, row))
    assert other.partials(0, theirs) == engine.partials(0, row)
    for one, rows in ((engine, topic), (other, same)):
        put(one, rows, "k", [3.3])
        one.lifetime.subtracting = True
        put(one, rows, "k", values[:1])
        one.lifetime.subtracting = False
    assert other.partials(0, theirs) == engine.partials(0, row)


def test_a_record_whose_spread_was_one_double_is_read():
    engine, topic = engine_of()
    keys = topic.key_numbers(["a"])
    engine.sink.load(topic.rows(0, keys), [RowPartial(2)])
    engine.sink.load(topic.rows(topic.field("n"), keys), [RowPartial(2, [3.0, 0.0, 0.5, 1.0, 2.0])])
    row = topic.rows(topic.field("n"), keys)
    assert engine.read(0, row.astype(np.int64))[:5, 0].tolist() == [3.0, 1.5, 1.0, 2.0, 0.5**0.5]
