"""Frames of any series of events against an independent account of them."""

import copy

from hypothesis import given
from hypothesis import strategies as st

from properties.series import play, play_split, steps
from pushsvc.event import Event
from support.reference.numbers import EVENT_CLOCK, NOW, SHORT, Reader, assert_same, expected, rows_of, state, topic


def frames_of(aggregate, now):
    return [frame.to_json(now) for frame in aggregate.due(now) + aggregate.flush(now)]


@given(steps, st.sampled_from([NOW, EVENT_CLOCK]))
def test_every_frame_is_exact_for_its_own_offset_and_interval(series, options):
    for producer, now, read in play(topic(options), series):
        if not read:
            continue
        producer.aggregate.flush(now)
        for window in options.windows:
            frame = producer.aggregate.snapshot(window.name)
            assert frame.end - frame.start == window.length
            assert frame.offset == len(producer.log)
            if producer.log:
                assert_same(rows_of(frame), expected(producer.log, frame, window.length / 1_000))


@given(steps, st.sampled_from([SHORT, NOW, EVENT_CLOCK]))
def test_a_reader_of_updates_has_the_rows_of_a_snapshot(series, options):
    reader, aggregate = Reader(), topic(options)
    for _, now, read in play(aggregate, series):
        if read:
            reader.take(aggregate.due(now))
            reader.take(aggregate.flush(now))
            for window in options.windows:
                assert reader.rows(window.name) == state(aggregate, window.name)


@given(steps, st.data(), st.sampled_from([NOW, EVENT_CLOCK]))
def test_a_batch_counts_the_same_however_it_is_cut_into_entries(series, draws, options):
    whole, split = topic(options), topic(options)
    play_split(whole, split, series, draws)
    assert (split.offset, split.late_by_window, split.late) == (whole.offset, whole.late_by_window, whole.late)
    for window in options.windows:
        a, b = whole.snapshot(window.name), split.snapshot(window.name)
        assert (a.start, a.end) == (b.start, b.end)
        assert_same(rows_of(a), rows_of(b), exact=10**9)


@given(steps, st.integers(0, 11), st.sampled_from([NOW, EVENT_CLOCK]))
def test_a_restored_aggregate_emits_the_same_bytes(series, stop, options):
    stayed = topic(options)
    restored = None
    for number, (producer, now, _) in enumerate(play(stayed, series)):
        if restored is not None:
            missing = [Event(time=time, key=key, data=data) for time, key, data in producer.log[restored.offset :]]
            if missing:
                restored.apply(len(producer.log), now, missing)
            else:
                restored.advance(now)
            assert frames_of(restored, now) == frames_of(stayed, now)
            assert restored.wake_at() == stayed.wake_at()
        else:
            frames_of(stayed, now)
        if number == stop:
            restored = stayed.saved_and_restored()
    assert stayed.saved_and_restored().all.save() == stayed.all.save()
    for window in options.windows:
        assert stayed.saved_and_restored().snapshot(window.name) == stayed.snapshot(window.name)


@given(steps, st.lists(st.sets(st.sampled_from(["10s", "1m"])), min_size=12, max_size=12), st.data())
def test_windows_are_reported_while_somebody_reads_them(series, wanted, draws):
    """The first frame of a window after each pause is a snapshot; a reader of the frames has the rows of the window."""
    aggregate = topic(draws.draw(st.sampled_from([SHORT, NOW, EVENT_CLOCK])))
    reader, reported, first = Reader(), {"10s", "1m"}, {"10s", "1m"}
    for (_, now, read), windows in zip(play(aggregate, series), wanted, strict=False):
        for window in reported - windows:
            aggregate.all.suspend("t", window)
        for window in windows - reported:
            aggregate.all.resume("t", window)
        first = (first | (windows - reported)) & windows
        reported = windows
        frames = aggregate.all.due(now, {"t": first})
        assert {frame.window for frame in frames} <= windows
        for frame in frames:
            assert (frame.kind == "snapshot") == (frame.window in first)
            if frame.kind == "snapshot":
                # Of a copy: a snapshot settles what is pending.
                other = copy.deepcopy(aggregate).snapshot(frame.window)
                assert (frame.gone, frame.ending) == ([], False)
                assert sorted(frame.rows, key=repr) == sorted(other.rows, key=repr)
                assert (frame.offset, frame.start, frame.end) == (other.offset, other.start, other.end)
        first -= {frame.window for frame in frames}
        reader.take(frames)
        if read:
            reader.take(aggregate.all.flush(now)) if not first else None
            for window in windows - first:
                assert reader.rows(window) == state(aggregate, window)
    if not reported:
        assert aggregate.all.wake_at() is None


@given(steps, st.integers(0, 11))
def test_a_window_without_readers_costs_no_row_that_is_empty(series, stop):
    """Rows that left a window are freed once readers know that they are gone; a suspended window has no readers."""
    aggregate = topic(NOW)
    for window in ("10s", "1m"):
        aggregate.all.suspend("t", window)
    now = 0
    for number, (_, now, _) in enumerate(play(aggregate, series)):
        if number == stop:
            for window in ("10s", "1m"):
                aggregate.all.resume("t", window)
            aggregate.all.due(now, {"t": {"10s", "1m"}})
            for window in ("10s", "1m"):
                aggregate.all.suspend("t", window)
    aggregate.all.advance(now + 10 * 61_000)
    aggregate.all.save()
    assert aggregate.topic.table.room() == topic(NOW).topic.table.room()
