"""Frames of any series of events against an independent account of them."""

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


@given(steps, st.sampled_from([SHORT, NOW, EVENT_CLOCK]))
def test_the_first_frame_of_a_fresh_topic_is_a_snapshot(series, options):
    fresh = topic(options)
    first: set[str] = set()
    for _, now, _ in play(fresh, series):
        frames = fresh.all.due(now, () if first else {"t"})
        if frames and not first:
            first = {frame.window for frame in frames}
            for frame in frames:
                # Of the same engine: the last bits of a standard deviation depend on when panes were merged.
                other = fresh.snapshot(frame.window)
                assert (frame.kind, frame.gone, frame.ending) == ("snapshot", [], False)
                assert sorted(frame.rows, key=repr) == sorted(other.rows, key=repr)
                assert (frame.offset, frame.start, frame.end) == (other.offset, other.start, other.end)
        elif first:
            assert {frame.kind for frame in frames} <= {"update"}
