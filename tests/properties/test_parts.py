"""A topic whose keys are divided among parts says what one engine says; parts speak as they do over sockets."""

from hypothesis import given
from hypothesis import strategies as st

from pushsvc.worker.shards.pool import Split
from support.accounts.numbers import EVENT_CLOCK, NOW, SHORT, Reader, assert_same
from support.accounts.parts import Beside, assert_frames, names_and, play, split_of, whole_of

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
def test_parts_say_together_what_one_engine_says(series, options, key):
    whole, split = whole_of(options, key=key), split_of(options, key=key)
    for now, look in play(series, whole, split, key):
        if look:
            assert_frames(whole.due(now), split.due(now))
            if not options.idle_cadence:  # else parts are not woken for what may not be said yet
                assert split.wake_at() == whole.wake_at()
    for window in options.windows:
        assert_frames([whole.snapshot("t", window.name)], [split.snapshot("t", window.name)])
    one, other = whole.topics["t"], split.topics["t"]
    assert (one.late, one.late_by_window, one.ahead) == (other.late, other.late_by_window, other.ahead)


@given(steps, st.integers(1, 3), st.integers(1, 2))
def test_totals_and_what_a_reader_has_are_exact_when_keys_find_no_room(series, max_keys, max_fields):
    caps = {"max_keys": max_keys, "max_fields": max_fields}
    whole, split, reader = whole_of(NOW, **caps), split_of(NOW, **caps), Reader()
    for now, look in play(series, whole, split):
        if not look:
            continue
        reader.take(split.due(now))
        for window in NOW.windows:
            rows, _ = names_and(split.snapshot("t", window.name))
            wanted, _ = names_and(whole.snapshot("t", window.name))
            totals = {name: row for name, row in wanted.items() if name[0] is None}
            assert_same({name: row for name, row in rows.items() if name[0] is None}, totals, exact=10**9)
            for field in {name[1] for name in rows}:
                keyed = [
                    sum(row[0] for name, row in one.items() if name[0] and name[1] == field) for one in (rows, wanted)
                ]
                assert keyed[0] == keyed[1]
            assert reader.rows(window.name) == rows
    assert whole.topics["t"].ignored == split.topics["t"].ignored or split._pending[0]


@given(steps, st.integers(0, 11), st.sampled_from([NOW, EVENT_CLOCK]))
def test_restored_parts_go_on_where_they_were(series, stop, options):
    whole, split = whole_of(options), split_of(options)
    for number, (now, _) in enumerate(play(series, whole, split)):
        assert_frames(whole.due(now), split.due(now))
        if number == stop:
            again = Split.restore(split._settings, b"".join(split.save()), Beside)
            assert again.topics["t"].offset == split.topics["t"].offset
            split._parts, again._parts = again._parts, []
    for window in options.windows:
        assert_frames([whole.snapshot("t", window.name)], [split.snapshot("t", window.name)])
