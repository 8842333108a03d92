import numpy as np
import pytest

from pushsvc.stats.rows import ALL_KEYS, CLOSED, COUNT, Rows


@pytest.fixture
def rows():
    return Rows()


@pytest.fixture
def topic(rows):
    return rows.add_topic(max_keys=3, max_fields=2)


def names(topic, rows):
    return [topic.name(row) for row in rows.tolist()]


def open_all(topic, *names):
    keys = topic.key_numbers(names)
    return topic.rows(COUNT, keys), topic.rows(topic.field("x"), keys)


def test_rows_have_names_totals_and_columns(rows, topic):
    counts, x = open_all(topic, "a")
    assert names(topic, np.concatenate([counts, x])) == [("a", None), ("a", "x")]
    assert names(topic, topic.totals()) == [(None, None), (None, "x")]
    assert rows.total[counts].tolist() == [topic.totals()[COUNT]]
    assert rows.total[x].tolist() == [topic.totals()[topic.field("x")]]
    assert rows.column[counts].tolist() == [CLOSED]
    assert sorted(rows.column[[*x, topic.totals()[1]]]) == [0, 1]
    assert topic.key_numbers(["a", None]).tolist() == [2, ALL_KEYS]


def test_keys_beyond_the_limit_share_a_row_and_fields_get_none(topic):
    open_all(topic, "a", "b", "c")
    assert topic.room() == 0
    assert topic.key_numbers(["d", "e"]).tolist() == [1, 1]
    assert names(topic, topic.rows(COUNT, np.array([1]))) == [("__other__", None)]
    assert (topic.field("y"), topic.field("z"), topic.field("y")) == (2, None, 2)


def test_closed_rows_are_reused(rows, topic):
    counts, x = open_all(topic, "a")
    size, columns = rows.size, rows.columns
    rows.close(x)
    assert topic.room() == 2
    rows.close(counts)
    assert topic.room() == 3
    again = open_all(topic, "b")
    assert set(np.concatenate(again).tolist()) == {*counts.tolist(), *x.tolist()}
    assert (rows.size, rows.columns) == (size, columns)
    assert names(topic, again[0]) == [("b", None)]


def test_rows_keep_their_numbers_when_arrays_grow(rows, topic):
    other = rows.add_topic(max_keys=2_000, max_fields=1)
    keys = [f"k{n}" for n in range(1_000)]
    mine, theirs = open_all(topic, "a")[1], open_all(other, *keys)[1]
    assert len({*mine.tolist(), *theirs.tolist(), *topic.totals().tolist(), *other.totals().tolist()}) == 1_005
    assert names(other, theirs) == [(key, "x") for key in keys]
    assert set(rows.topic[theirs].tolist()) == {other.number}
    rows.drop_topic(other)
    assert rows.of_topic(other).tolist() == []
    assert rows.add_topic(1, 1).number == other.number
    assert names(topic, mine) == [("a", "x")]
