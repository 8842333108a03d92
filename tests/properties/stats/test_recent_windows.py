"""Count windows and exact windows of arbitrary series, against the reference model."""

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from properties.series import data, keys, play, play_split, steps
from pushsvc.event import Event
from support.reference.numbers import Producer, Reader, T, assert_same, rows_of, topic
from support.reference.recent import ALL, BOTH, EXACT, FEW, LAST_3, assert_frame

GROUPED = dataclasses.replace(ALL, key=("key", "x"))
KINDS = [
    LAST_3,
    EXACT,
    FEW,
    BOTH,
    ALL,
    *(dataclasses.replace(one, clock="event") for one in (LAST_3, EXACT, FEW, BOTH)),
]
some_settings = st.sampled_from(KINDS)


@given(steps, some_settings)
def test_frames_are_exact_for_their_time_range(series, options):
    for producer, now, read in play(topic(options), series):
        if not read or not producer.log:
            continue
        producer.aggregate.flush(now)
        for window in options.windows:
            frame = producer.aggregate.snapshot(window.name)
            assert frame.offset == len(producer.log)
            if window.events or options.exact:
                assert_frame(frame, window, producer, options, now)


@given(steps, st.sampled_from([*KINDS, GROUPED]))
def test_reader_of_updates_has_the_rows_of_a_snapshot(series, options):
    reader, aggregate = GroupReader(), topic(options)
    for _, now, read in play(aggregate, series):
        if read:
            reader.take(aggregate.due(now))
            reader.take(aggregate.flush(now))
            for window in options.windows:
                copy = aggregate.saved_and_restored()
                assert reader.rows(window.name) == reader.of(copy.snapshot(window.name))


class GroupReader(Reader):
    """Keeps rows by key, field and grouping."""

    def take(self, frames):
        for frame in frames:
            rows = self.windows.setdefault(frame.window, {})
            if frame.kind == "snapshot":
                rows.clear()
            rows.update(self.of(frame))
            for place in frame.gone:
                del rows[tuple(place)]

    @staticmethod
    def of(frame):
        return {(row[0], row[1], *row[12:]): list(row[2:12]) for row in frame.rows}


@given(steps, st.data(), some_settings)
def test_division_into_entries_does_not_change_a_bit(series, draws, options):
    whole, split = topic(options), topic(options)
    play_split(whole, split, series, draws)
    assert (split.late_by_window, split.late) == (whole.late_by_window, whole.late)
    for window in options.windows:
        a, b = whole.snapshot(window.name), split.snapshot(window.name)
        assert (a.start, a.end, a.truncated) == (b.start, b.end, b.truncated)
        if window.events or options.exact:
            assert rows_of(a) == rows_of(b)
        else:
            assert_same(rows_of(a), rows_of(b), exact=10**9)


def frames_of(aggregate, now):
    return [frame.to_json(now) for frame in aggregate.due(now)]


@given(steps, st.integers(0, 11), some_settings)
def test_restored_aggregate_emits_the_bytes_of_one_that_was_never_read(series, stop, options):
    """The cadence of 300 ms leaves many events pending when an aggregate is saved."""
    options = dataclasses.replace(options, idle_cadence=300)
    stayed, other = topic(options), topic(options)
    for number, (producer, now, read) in enumerate(play(stayed, series)):
        missing = [Event(time=time, key=key, data=numbers) for time, key, numbers in producer.log[other.offset :]]
        if missing:
            other.apply(len(producer.log), now, missing)
        else:
            other.advance(now)
        if number <= stop:
            other = other.saved_and_restored()
        if read:
            assert frames_of(other, now) == frames_of(stayed, now)
            assert other.wake_at() == stayed.wake_at()
    assert other.saved_and_restored().save() == other.save()
    for window in options.windows:
        assert other.snapshot(window.name) == stayed.snapshot(window.name)


@given(st.lists(st.tuples(keys, data), min_size=1, max_size=30), st.integers(0, 29))
def test_topic_rebuilt_from_its_last_events_has_the_same_rows(events, lost):
    """A count window needs the last N events of the log, however old they are."""
    stayed, rebuilt = Producer(topic(LAST_3)), topic(LAST_3)
    for number, (key, numbers) in enumerate(events):
        stayed.send(T + number, Event(time=T - number * 10**9, key=key, data=numbers))
    first = min(lost, max(0, len(events) - 3))
    for offset, (time, key, numbers) in enumerate(stayed.log[first:], first + 1):
        rebuilt.apply(offset, T + 10**6, [Event(time=time, key=key, data=numbers)])
    frames = [one.snapshot("last 3") for one in (stayed.aggregate, rebuilt)]
    assert (frames[0].start, frames[0].end) == (frames[1].start, frames[1].end)
    rows = [{name: row for name, row in rows_of(frame).items() if row[0]} for frame in frames]
    assert rows[0] == rows[1]
