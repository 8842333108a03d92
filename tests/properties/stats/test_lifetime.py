"""The window of all events against numpy, over any batches, records on the way, and events that are taken out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushsvc.aggregate.lifetime_record import LifetimeHead, decode_record, encode_record, encode_rows, load_rows
from pushsvc.stats.engine import Engine, EngineOptions
from pushsvc.stats.window import LIFETIME
from support.reference.moments import exact_std

PERCENTS = (1, 50, 90)
KEYS = ("a", "b", "c")
ENTRIES = st.lists(
    st.tuples(
        st.lists(st.tuples(st.sampled_from(KEYS), st.integers(-(10**6), 10**6)), min_size=1, max_size=40),
        st.sampled_from(("put", "put", "put", "record", "take out")),
    ),
    max_size=12,
)


class Counted:
    """An engine of one topic."""

    def __init__(self):
        self.engine = Engine(EngineOptions((LIFETIME,), PERCENTS), 0)
        self.table = self.engine.rows.add_topic(len(KEYS), 5)

    def put(self, events):
        names, values = zip(*events, strict=True)
        ids = self.engine.sink.begin_entry(self.table, 1, np.arange(len(events)), None)
        keys = self.table.key_numbers(names)
        self.engine.put(ids, self.table.rows(0, keys), None)
        self.engine.put(ids, self.table.rows(self.table.field("n"), keys), np.array(values, np.float64))

    def take_out(self, events):
        self.engine.lifetime.subtracting = True
        self.put(events)
        self.engine.lifetime.subtracting = False

    def through_a_record(self):
        head = LifetimeHead(
            created=1, deleted=0, offset=1, after=0, lost=[], groupings=["key"], quantiles=True, approximate=[],
            included=[], least=0, greatest=40,
        )  # fmt: skip
        found, rows = decode_record(b"".join(encode_record(head, [encode_rows(self.engine, self.table)])))
        other = Counted()
        load_rows(found, rows, other.engine, other.table, ["key"])
        return other

    def read(self, key):
        """Return the count of a key (None: all), and its moments and quantiles."""
        number = self.table.indexes[0][key]
        row = np.array([self.table.table[self.table.field("n"), number]], np.int64)
        return int(self.engine.counts(0, row)[0]), self.engine.read(0, row)[:, 0].tolist()


@given(ENTRIES)
def test_rows_are_those_of_numpy(entries):
    counted, events, took_out = Counted(), [], False
    for batch, action in entries:
        if action == "record":
            counted = counted.through_a_record()
        elif action == "take out" and events:
            counted.take_out(events[:5])
            del events[:5]
            took_out = True
        counted.put(batch)
        events += batch
    for key in {name for name, _ in events} | ({None} if events else set()):
        values = np.array([value for name, value in events if key in (None, name)], np.float64)
        count, (total, mean, least, greatest, deviation, *quantiles) = counted.read(key)
        assert (count, total, mean) == (len(values), values.sum(), values.sum() / len(values))
        exact = np.quantile(values, np.array(PERCENTS) / 100, method="inverted_cdf")
        assert (
            np.abs(quantiles - exact) == pytest.approx(0, abs=0)
            or (np.abs(quantiles - exact) <= np.abs(exact) / 128).all()
        )
        if not took_out:
            assert (least, greatest) == (values.min(), values.max())
            assert len(values) < 2 or deviation == exact_std(values.tolist())
        else:
            assert least <= values.min() <= values.max() <= greatest
            assert len(values) < 2 or deviation == pytest.approx(exact_std(values.tolist()), rel=1e-12, abs=1e-9)
