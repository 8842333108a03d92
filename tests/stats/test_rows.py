import pytest

from pushsvc.stats.rows import CLOSED, OTHER, Rows


@pytest.fixture
def rows():
    table = Rows(max_keys=3, max_fields=2)
    table.open_count(table.totals)
    return table


def test_rows_know_their_names_their_total_and_their_column(rows):
    own = rows.of("a")
    count, x = rows.open_count(own), rows.open(own, "x")
    assert (rows.keys[count], rows.fields[count], rows.keys[x], rows.fields[x]) == ("a", None, "a", "x")
    assert (rows.total[count], rows.total[x]) == (0, rows.totals["x"])
    assert rows.column[count] == CLOSED
    assert sorted(rows.column[[x, rows.totals["x"]]]) == [0, 1]
    assert rows.of("a") is own


def test_keys_beyond_the_cap_share_a_row_and_fields_beyond_it_get_none(rows):
    for key in "abc":
        rows.open_count(rows.of(key))
    assert rows.room() == 0
    assert rows.of("d") is rows.of("e") is rows.other
    assert rows.keys[rows.open_count(rows.of("d"))] == OTHER
    assert rows.open(rows.of("a"), "x") is not None
    assert rows.open(rows.of("a"), "y") is not None
    assert rows.open(rows.of("a"), "z") is None
    assert rows.open(rows.totals, "z") is None


def test_closed_rows_are_used_again(rows):
    own = rows.of("a")
    count, x = rows.open_count(own), rows.open(own, "x")
    size, columns = len(rows), rows.columns
    rows.close([x])
    assert rows.of("a") is own
    rows.close([count])
    assert rows.room() == 3
    again = rows.of("b")
    assert {rows.open_count(again), rows.open(again, "x")} == {count, x}
    assert (len(rows), rows.columns) == (size, columns)


def test_a_thousand_rows_keep_their_places():
    rows = Rows(max_keys=1_000, max_fields=1)
    rows.open_count(rows.totals)
    made = [(rows.open_count(rows.of(f"k{n}")), rows.open(rows.of(f"k{n}"), "x")) for n in range(1_000)]
    assert len({row for pair in made for row in pair}) == 2_000
    assert all(rows.keys[a] == rows.keys[b] == f"k{n}" for n, (a, b) in enumerate(made))
    assert all(rows.total[b] == rows.totals["x"] for _, b in made)
