"""A topic whose keys are divided among parts says what one engine says; parts speak as they do over sockets."""

import dataclasses
import json
from collections import deque

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushsvc.aggregate import Aggregate
from pushsvc.event.columns import ColumnReader
from pushsvc.part_messages import Answer, Question, encode
from pushsvc.part_process import Counter
from pushsvc.split import PartFailed, Split
from pushsvc.stats.freeze import NotFrozen
from test_aggregate import EVENT_CLOCK, NOW, SHORT, Reader, T, assert_same

PARTS = 3


class Beside:
    """A part in this process: an example needs no processes of its own. Messages are bytes all the same."""

    def __init__(self, _number):
        self.counter = None
        self.answers = deque()

    def send(self, message):
        question = msgspec.msgpack.decode(message[4:], type=Question)
        if self.counter is None:
            self.counter, answer = Counter.begin(question)
        else:
            answer = self.counter.answer(question)
        if answer is not None:
            self.answers.append(encode(answer)[4:])

    def answer(self):
        return msgspec.msgpack.decode(self.answers.popleft(), type=Answer)

    def end(self):
        pass


def split_of(options, **changes):
    split = Split(dataclasses.replace(options, parts=PARTS, **changes), T, Beside)
    split.open("t", T)
    return split


def whole_of(options, **changes):
    whole = Aggregate(dataclasses.replace(options, **changes), T)
    whole.open("t", T)
    return whole


def stored(now, batch):
    """Return an entry as it is in the log."""
    lines = []
    for shift, key, data in batch:
        attributes = {"time": None if shift is None else now + shift, "key": key}
        lines.append(orjson.dumps({name: value for name, value in attributes.items() if value is not None} | data))
    return b"\n".join(lines)


def play(series, whole, split, key=("key",)):
    """Play a series to both; yield the time, and whether somebody looks, after each step."""
    now, offset, reader = T + 17, 0, ColumnReader(key)
    for gap, batch, look in series:
        now += gap
        if batch:
            offset += len(batch)
            data = stored(now, batch)
            whole.apply("t", offset, now, reader.read(data))
            split.apply("t", offset, now, data, told=False)
        whole.advance(now)
        split.advance(now)
        yield now, look


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


def names_and(frame):
    """Return the rows of a frame by key, field and grouping, and those that are gone."""
    said = json.loads(frame.to_json(T))
    by = len(said["columns"]) if said["columns"][-1] == "by" else None
    rows = {
        (row[0], row[1], *row[by - 1 :]) if by else (row[0], row[1]): row[2 : by and by - 1] for row in said["data"]
    }
    assert len(rows) == len(said["data"])
    return rows, sorted(map(tuple, said["gone"]), key=repr)


def assert_frames(whole, split):
    """All but the order of the rows is the same, std to its last bits."""
    for one, other in zip(whole, split, strict=True):
        (rows, gone), (own, own_gone) = names_and(one), names_and(other)
        assert_same(own, rows, exact=10**9)
        assert own_gone == gone
        heads = [
            (frame.window, frame.kind, frame.start, frame.end, frame.offset, frame.since, frame.cadence, frame.ending)
            for frame in (one, other)
        ]
        assert heads[0] == heads[1]


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


def test_a_state_of_other_settings_or_no_state_is_refused():
    split = split_of(NOW)
    split.apply("t", 1, T, b'{"key":"a","x":1}', told=False)
    data = b"".join(split.save())
    for settings, given_data in (
        (dataclasses.replace(split._settings, parts=2), data),
        (dataclasses.replace(split._settings, cadence=7), data),
        (split._settings, b"nothing"),
        (split._settings, data[:-1]),
    ):
        with pytest.raises(NotFrozen):
            Split.restore(settings, given_data, Beside)
    state = msgspec.msgpack.decode(data)
    state[-1][1] = b"of a part"
    with pytest.raises(NotFrozen):
        Split.restore(split._settings, msgspec.msgpack.encode(state), Beside)


def test_an_entry_that_cannot_be_read_counts_nothing_and_ends_nothing():
    split = split_of(NOW)
    split.apply("t", 1, T, b'{"key":"a","x":1}', told=False)
    split.apply("t", 2, T, b"no JSON", told=False)
    split.apply("t", 3, T, b'{"key":"a","x":2}', told=False)
    (rows, _) = names_and(split.snapshot("t", "10s"))
    assert rows["a", "x"][0] == 2


def test_an_entry_that_makes_a_part_fail_is_named(monkeypatch):
    split = split_of(NOW)
    apply = Aggregate.apply
    monkeypatch.setattr(
        Aggregate, "apply", lambda self, name, offset, *rest: apply(self, name, 1 // (offset - 2), *rest)
    )
    for offset in (1, 2, 3):
        split.apply("t", offset, T, b'{"key":"a","x":1}', told=False)
    with pytest.raises(PartFailed) as raised:
        split.due(T)
    assert raised.value.place == ("t", 2)


def test_late_events_are_told_once():
    split = split_of(NOW)
    split.apply("t", 1, T + 100_000, orjson.dumps({"key": "a", "time": T - 600_000}), told=True)
    split.apply("t", 2, T + 100_000, orjson.dumps({"key": "b", "time": T - 600_000}), told=False)
    split.due(T + 100_000)
    assert (split.topics["t"].late, split.topics["t"].told_late) == (2, 1)
