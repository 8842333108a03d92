"""Statistics of values of arbitrary series, in windows of panes and in windows that keep their events."""

import dataclasses
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from pushsvc.event import Event
from pushsvc.event.columns import Columns
from support.effort import rounds
from support.reference.open_aggregate import OpenAggregate
from support.reference.values import (
    EVENT_CLOCK,
    GROUPED,
    NOW,
    RECENT,
    Recorder,
    T,
    check,
    check_approximate,
    event,
    exact,
    rows_of,
)

scalars = st.one_of(
    st.none(), st.booleans(), st.sampled_from(["x", "y", "z", "", "1"]), st.integers(-2, 2),
    st.sampled_from([0.5, 1.0]),
    st.sampled_from([2**53, 2**53 + 1, 2.0**53, [1], {"v": 1}]),
)  # fmt: skip
data = st.fixed_dictionaries({}, optional={"v": scalars, "w": scalars, "k2": st.sampled_from(["p", "q"])})
shifts = st.one_of(st.none(), st.integers(-3_000, 5_000), st.integers(-70_000, 5_000))
batches = st.lists(st.tuples(shifts, st.sampled_from(["a", "b", None]), data), min_size=1, max_size=12)
gaps = st.sampled_from([0, 1, 250, 999, 4_000, 11_000, 61_000])
steps = st.lists(st.tuples(gaps, st.one_of(st.just([]), batches), st.booleans()), min_size=1, max_size=12)


def play(recorder, series):
    now = T + 17
    for gap, batch, read in series:
        now += gap
        if batch:
            recorder.send(now, *[Event(time=None if d is None else now + d, key=k, data=v) for d, k, v in batch])
        else:
            recorder.all.advance(now)
        yield now, read


@given(steps, st.sampled_from([NOW, EVENT_CLOCK, GROUPED, *RECENT]))
def test_frames_are_exact_for_their_offset_and_interval(series, settings):
    recorder = Recorder(settings)
    for now, read in play(recorder, series):
        if read:
            recorder.all.flush(now)
            for window in settings.windows:
                check(recorder, window.name)


@given(steps, st.data(), st.sampled_from([NOW, EVENT_CLOCK, *RECENT]))
def test_division_into_entries_does_not_matter(series, draws, settings):
    whole, split = Recorder(settings), Recorder(settings)
    for now, _ in play(whole, series):
        split.all.advance(now)
        while len(split.log) < len(whole.log):
            size = draws.draw(st.integers(1, len(whole.log) - len(split.log)))
            begun = len(split.log)
            split.send(now, *[replace(one, time=time) for time, one in whole.log[begun : begun + size]])
            if draws.draw(st.booleans()):
                split.all.flush(now)
    for window in settings.windows:
        mine, other = (exact(rows_of(one.all.snapshot("t", window.name))) for one in (whole, split))
        assert mine == other


def capped(*many):
    return [dataclasses.replace(settings, max_values=2) for settings in many]


@given(steps, st.integers(0, 11), st.sampled_from([NOW, EVENT_CLOCK, *RECENT, *capped(NOW, *RECENT)]))
def test_restored_aggregate_emits_the_same_bytes(series, stop, settings):
    stayed, restored = Recorder(settings), None
    for number, (now, _) in enumerate(play(stayed, series)):
        sent = [frame.to_json(now) for frame in stayed.all.due(now) + stayed.all.flush(now)]
        if restored is not None:
            missing = [replace(e, time=t) for t, e in stayed.log[restored.topics["t"].offset :]]
            if missing:
                restored.apply("t", len(stayed.log), now, Columns.from_events(missing, settings.key, settings.values))
            else:
                restored.advance(now)
            assert [frame.to_json(now) for frame in restored.due(now) + restored.flush(now)] == sent
        if number == stop:
            restored = OpenAggregate.restore(settings, b"".join(stayed.all.save()))
    assert OpenAggregate.restore(settings, b"".join(stayed.all.save())).save() == stayed.all.save()


@given(steps, st.sampled_from([NOW, EVENT_CLOCK, *RECENT, *capped(NOW, *RECENT)]))
def test_reader_of_updates_has_the_rows_of_a_snapshot(series, settings):
    recorder, windows = Recorder(settings), {window.name: {} for window in settings.windows}
    for now, read in play(recorder, series):
        for frame in recorder.all.flush(now) if read else ():
            for place in frame.gone:
                del windows[frame.window][(*place, None)[:3]]
            windows[frame.window].update(rows_of(frame))
    recorder.all.flush(now)
    for frame in OpenAggregate.restore(settings, b"".join(recorder.all.save())).flush(now):
        assert not frame.rows
    restored = OpenAggregate.restore(settings, b"".join(recorder.all.save()))
    for name in windows if read else ():
        live = {place: row for place, row in windows[name].items() if row["count"] or place[0] is None}
        assert live == rows_of(restored.snapshot("t", name))


# -- long series, in windows of panes


@pytest.mark.parametrize("settings", [NOW, EVENT_CLOCK])
def test_long_series_beyond_the_limit_are_exact_unless_flagged(settings):
    random_, recorder = random.Random(7), Recorder(dataclasses.replace(settings, max_values=12))
    now, approximate, reads = T, 0, 0
    for step in range(rounds(300)):
        now += random_.choice([100, 1_000, 7_000])
        crowd = 60 if step // 10 % 3 else 8  # few values at times, so that all are tracked again
        values = [random_.randrange(crowd) for _ in range(random_.choice([1, 20]))]
        late = random_.choice([0, 0, 5_000])
        recorder.send(now, *[event(now - random_.randrange(late + 1), random_.choice("ab"), v=one) for one in values])
        if step % 5 == 0:
            for window in settings.windows:
                approximate += check_approximate(recorder, window.name)
                reads += 3
    assert 0 < approximate < reads or rounds(300) < 100


@pytest.mark.parametrize(("settings", "seed"), [(NOW, 1), (EVENT_CLOCK, 2), (GROUPED, 3)])
def test_long_series_with_disorder_lateness_gaps_and_ticks(settings, seed):
    random_, recorder, now = random.Random(seed), Recorder(settings), T
    pools = [f"value {n}" for n in range(40)], list(range(5)), [True, False, 0.5, 2**60]
    for step in range(rounds(400)):
        now += random_.choice([0, 20, 300, 1_000, 1_000, 4_000, 30_000 if random_.random() < 0.1 else 100])
        if random_.random() < 0.2:
            recorder.all.advance(now)
            continue
        disorder = random_.choice([0, 0, 500, 15_000, 90_000])
        events = []
        for _ in range(random_.choice([1, 3, 60])):
            value = random_.choice(random_.choices(pools, (8, 2, 1))[0])
            one = {"v": value, "k2": random_.choice("pq")} | ({"w": random_.random() < 0.5} if step % 3 else {})
            time = None if random_.random() < 0.3 else now - random_.randrange(disorder + 1) + random_.randrange(3_000)
            events.append(Event(time=time, key=random_.choice("abcdefgh"), data=one))
        recorder.send(now, *events)
        if step % 9 == 0:
            for window in settings.windows:
                check(recorder, window.name)
