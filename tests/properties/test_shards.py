"""Shards have together the rows of one engine; their messages are those of the sockets."""

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from pushsvc.aggregate.reading import RowsWanted
from pushsvc.worker.shards.pool import ShardPool
from support.reference.numbers import EVENT_CLOCK, NOW, SHORT, Reader, assert_same
from support.reference.shards import SHARDS, LocalShard, assert_frames, names_and, play, pool_of, whole_of

keys = st.sampled_from(["a", "b", "c", "d", "e", None])
eighths = st.integers(-(2**30), 2**30).map(lambda k: k / 8)
numbers = st.dictionaries(st.sampled_from(["x", "y"]), eighths, max_size=2)
cities = st.one_of(st.just({}), st.sampled_from([{"city": name} for name in ("here", "there", "nowhere")]))
data = st.tuples(numbers, cities).map(lambda pair: pair[0] | pair[1])
shifts = st.one_of(st.none(), st.integers(-3_000, 5_000), st.integers(-70_000, 5_000))
batches = st.lists(st.tuples(shifts, keys, data), min_size=1, max_size=12)
gaps = st.sampled_from([0, 1, 250, 999, 4_000, 11_000, 61_000])
steps = st.lists(st.tuples(gaps, st.one_of(st.just([]), batches), st.booleans()), min_size=1, max_size=12)
groupings = st.sampled_from([("key",), ("key", "city"), ("city", "key+city", "key")])


@given(steps, st.sampled_from([NOW, SHORT, EVENT_CLOCK]), groupings)
def test_shards_have_the_frames_of_one_engine(series, options, key):
    whole, pool = whole_of(options, key=key), pool_of(options, key=key)
    for now, read in play(series, whole, pool, key):
        if read:
            assert_frames(whole.due(now), pool.due(now))
            if not options.idle_cadence:  # else a pool does not wake for updates that must wait
                assert pool.wake_at() == whole.wake_at()
    for window in options.windows:
        assert_frames([whole.snapshot("t", window.name)], [pool.snapshot("t", window.name)])
    one, other = whole.topics["t"], pool.topics["t"]
    assert (one.late, one.late_by_window, one.ahead) == (other.late, other.late_by_window, other.ahead)


QUESTIONS = [
    (name, field, window.name)
    for window in NOW.windows
    for name, field in [
        ("count", None), ("rate", "x"), ("mean", "x"), ("std", "x"), ("max", "y"),
        *((f"p{percent}", "x") for percent in NOW.percents),
    ]
]  # fmt: skip


@given(steps, groupings, st.integers(0, 2), st.one_of(st.none(), st.sets(keys.filter(bool))))
def test_shards_read_the_statistics_of_one_engine(series, key, grouping, named):
    """Totals and rows, at every step, bit for bit; frames are as if nobody had read."""
    grouping %= len(key)
    whole, pool = whole_of(NOW, key=key), pool_of(NOW, key=key)
    wanted = RowsWanted(grouping, QUESTIONS, None if named is None else sorted(named))
    for now, read in play(series, whole, pool, key):
        one, other = whole.reading("t"), pool.read_rows("t", wanted)
        there = one.keys(grouping)
        if named is None:
            assert sorted(other.keys(grouping)) == sorted(there)
        rows = [None, *(there if named is None else sorted(named))]
        for question in QUESTIONS:
            expected, found = (reading.values(*question, rows, grouping) for reading in (one, other))
            assert expected.tobytes() == found.tobytes(), question
        if read:
            assert_frames(whole.due(now), pool.due(now))


@given(steps, st.integers(1, 3), st.integers(1, 2))
def test_totals_and_rows_of_a_reader_are_exact_when_keys_find_no_room(series, max_keys, max_fields):
    caps = {"max_keys": max_keys, "max_fields": max_fields}
    whole, pool, reader = whole_of(NOW, **caps), pool_of(NOW, **caps), Reader()
    for now, read in play(series, whole, pool):
        if not read:
            continue
        reader.take(pool.due(now))
        for window in NOW.windows:
            rows, _ = names_and(pool.snapshot("t", window.name))
            wanted, _ = names_and(whole.snapshot("t", window.name))
            totals = {name: row for name, row in wanted.items() if name[0] is None}
            assert_same({name: row for name, row in rows.items() if name[0] is None}, totals, exact=10**9)
            for field in {name[1] for name in rows}:
                keyed = [
                    sum(row[0] for name, row in one.items() if name[0] and name[1] == field) for one in (rows, wanted)
                ]
                assert keyed[0] == keyed[1]
            assert reader.rows(window.name) == rows
    pool.snapshot("t", NOW.windows[0].name)  # the shards report what they ignored with their rows
    assert whole.topics["t"].ignored == pool.topics["t"].ignored


@given(steps, st.integers(0, 11), st.sampled_from([NOW, EVENT_CLOCK]))
def test_restored_shards_continue_at_their_offset(series, stop, options):
    whole, pool = whole_of(options), pool_of(options)
    for number, (now, _) in enumerate(play(series, whole, pool)):
        assert_frames(whole.due(now), pool.due(now))
        if number == stop:
            again = ShardPool.restore(dataclasses.replace(options, parts=SHARDS), b"".join(pool.save()), LocalShard)
            assert again.topics["t"].offset == pool.topics["t"].offset
            pool.shards, again.shards = again.shards, []
    for window in options.windows:
        assert_frames([whole.snapshot("t", window.name)], [pool.snapshot("t", window.name)])
