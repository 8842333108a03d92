import json

import numpy as np
import pytest

from pushsvc.aggregate.statistics_frame import JsonRows, RowNames, counts_to_json, encode_ranges
from pushsvc.stats.rows import COUNT, Rows

NAN = float("nan")
SLICE = 16


def encoder(count, figures, ends=None):
    """Return an encoder of the rows ``r0``, ``r1`` …; every third has no statistics."""
    names = [b'["r%d","x"' % number for number in range(len(count))]
    valued = np.arange(len(count)) % 3 > 0

    def encode(part):
        numbers = figures[:, part][:, valued[part]]
        return JsonRows(names[part], counts_to_json(count[part], 10), numbers, valued[part], ends and ends[part])

    return encode


@pytest.mark.parametrize("ends", [False, True])
def test_rows_are_divided_among_frames_wherever_they_are_encoded(ends):
    size = 3 * SLICE + 7
    count = np.arange(size) % 5
    figures = np.arange(3 * size).reshape(3, size) * 7 % 17 / 8 - 1
    figures[0, 4], figures[1, 5] = NAN, np.inf
    bys = [b'"by, ],[ %d"' % number for number in range(size)] if ends else None
    ranges = [(0, 5), (5, 5), (5, 9), (9, SLICE + 2), (SLICE + 2, 3 * SLICE - 1), (3 * SLICE - 1, size)]
    arrays = [json.loads(b"".join(parts)) for parts in encode_ranges(ranges, size, encoder(count, figures, bys), SLICE)]
    assert [len(array) for array in arrays] == [last - first for first, last in ranges]
    for number, row in enumerate(row for array in arrays for row in array):
        own = [None if number % 3 == 0 or not np.isfinite(one) else one for one in figures[:, number].tolist()]
        end = [f"by, ],[ {number}"] if ends else []
        assert row == [f"r{number}", "x", number % 5, number % 5 / 10, *own, *end]


def test_a_reused_row_number_gets_the_name_of_the_new_row():
    rows = Rows()
    names = RowNames(rows, several=True)
    topic = rows.add_topic(10, 4, ("key", "dish"))
    field = topic.field("x")
    mine = topic.rows(field, topic.key_numbers(['so"up'], 1))
    assert (names.of(mine), names.groupings_of(mine)) == ([b'["so\\"up","x"'], [b'"dish"'])
    assert names.of(topic.totals()) == [b"[null,null", b'[null,"x"']
    assert names.groupings_of(topic.totals()) == [b"null", b"null"]
    rows.close(mine)
    other = topic.rows(COUNT, topic.key_numbers(["tea"]))
    assert other.tolist() == mine.tolist()
    assert (names.of(other), names.groupings_of(other)) == ([b'["tea",null'], [b'"key"'])
