"""Frames of panes, rule by rule; tests/properties plays any series of events to the same account."""

import dataclasses
import json
from math import sqrt

import pytest

from pushsvc.aggregate.aggregate import Aggregate
from pushsvc.event.columns import Columns
from pushsvc.settings import TopicSettings
from pushsvc.stats.serialize import InvalidState
from pushsvc.stats.window import Window
from support.reference.numbers import (
    EVENT_CLOCK,
    NOW,
    SHORT,
    Producer,
    Reader,
    T,
    assert_same,
    event,
    expected,
    rows_of,
    topic,
)

TEN_SECONDS, MINUTE = (dataclasses.replace(NOW, windows=(window,)) for window in NOW.windows)


# -- the contract


def test_a_frame_as_json():
    aggregate = topic(TopicSettings())
    aggregate.apply(7, T + 5, [event(x=1.5), event(key=None, x=2.5, label="no number", flag=True)])
    update = json.loads(aggregate.due(T + 6)[0].to_json(T + 9))
    count, rate = 2, 2 / 60
    assert update == {
        "topic": "t",
        "window": "1m",
        "from": "2023-11-14T22:12:21.000Z",
        "to": "2023-11-14T22:13:21.000Z",
        "offset": 7,
        "since": "2023-11-14T22:13:20.000Z",
        "at": T + 9,
        "cadence_ms": 1_000,
        "columns": ["key", "field", "count", "rate", "sum", "mean", "min", "max", "std", "p50", "p95", "p99"],
        "data": [
            [None, None, count, rate, *[None] * 8],
            [None, "x", count, rate, 4.0, 2.0, 1.5, 2.5, sqrt(0.5), 1.5, 2.5, 2.5],
            ["a", None, 1, 1 / 60, *[None] * 8],
            ["a", "x", 1, 1 / 60, 1.5, 1.5, 1.5, 1.5, None, 1.5, 1.5, 1.5],
        ],
        "gone": [],
    }
    assert list(update["columns"]) == list(SHORT.columns)


def test_updates_go_on_after_the_clock_of_redis_went_back():
    """The windows wait for the clock, and the entries have the arrival of the last one, but they are counted."""
    aggregate = topic(TopicSettings())
    aggregate.apply(1, T, [event()])
    assert aggregate.due(T + 5_000)
    aggregate.apply(2, T, [event()])
    back = T - 3_600_000
    frames = aggregate.due(back) + aggregate.due(back + 1_000)
    assert {frame.offset for frame in frames} == {2}


def test_a_topic_without_events_has_no_rows_and_no_wake_time():
    aggregate = topic()
    aggregate.advance(T + 100_000)
    assert aggregate.snapshot("10s").rows == []
    assert aggregate.due(T + 100_000) == []
    assert aggregate.wake_at() is None


def test_a_quiet_topic_decays_to_zero_and_its_keys_are_gone():
    aggregate, reader, updates = topic(), Reader(), []
    aggregate.apply(1, T + 100, [event(x=1), event(T - 3_000, x=3)])
    now = T + 100
    while now is not None:
        aggregate.advance(now)
        frames = aggregate.due(now)
        reader.take(frames)
        updates += [(now - T, f.window, len(f.rows), f.gone) for f in frames]
        now = aggregate.wake_at()
    gone = [("a", None), ("a", "x")]
    assert updates == [
        (100, "10s", 4, []),
        (100, "1m", 4, []),
        (7_000, "10s", 4, []),
        (10_000, "10s", 4, []),
        (10_000, "10s", 0, gone),
        (57_000, "1m", 4, []),
        (60_000, "1m", 4, []),
        (60_000, "1m", 0, gone),
    ]
    assert reader.rows("10s") == {(None, None): [0, 0.0, *[None] * 8], (None, "x"): [0, 0.0, 0.0, *[None] * 7]}
    assert rows_of(aggregate.snapshot("1m")) == reader.rows("1m")


def test_a_row_of_zero_may_revive_before_and_after_it_is_gone():
    aggregate, reader = topic(), Reader()
    aggregate.apply(1, T, [event(x=1)])
    reader.take(aggregate.flush(T))
    aggregate.advance(T + 20_000)
    reader.take(aggregate.flush(T + 20_000))
    assert reader.windows["10s"]["a", "x"] == [0, 0.0, 0.0, *[None] * 7]
    aggregate.apply(2, T + 20_000, [event(x=2)])
    (frame, _) = aggregate.flush(T + 20_000)
    assert (rows_of(frame)["a", "x"][0], frame.gone) == (1, [])
    aggregate.advance(T + 40_000)
    aggregate.flush(T + 40_000)
    assert aggregate.flush(T + 40_000)[0].gone == [("a", None), ("a", "x")]
    aggregate.apply(3, T + 40_000, [event(x=3)])
    assert rows_of(aggregate.flush(T + 40_000)[0])["a", "x"][2] == 3


def test_a_row_that_came_and_went_between_two_frames_is_in_none():
    aggregate = topic(TEN_SECONDS)
    aggregate.apply(1, T, [event(key="b")])
    aggregate.flush(T)
    aggregate.apply(2, T, [event(x=1)])
    aggregate.advance(T + 20_000)
    frame = aggregate.flush(T + 20_000)[0]
    assert rows_of(frame).keys() == {(None, None), ("b", None), (None, "x")}


def test_a_late_event_counts_in_the_windows_that_still_have_its_pane():
    aggregate = topic()
    aggregate.apply(1, T, [event(x=1)])
    aggregate.flush(T)
    aggregate.apply(2, T + 1, [event(T - 9_000, x=5)])
    assert [rows_of(frame)["a", "x"][2] for frame in aggregate.flush(T)] == [6, 6]
    aggregate.apply(3, T + 1, [event(T - 10_000, x=7), event(T - 59_000, x=7), event(T - 60_000, x=9)])
    assert [(f.window, rows_of(f)["a", "x"][2]) for f in aggregate.flush(T)] == [("1m", 20)]
    assert (aggregate.late, aggregate.late_by_window) == (1, {"10s": 3, "1m": 1})


def test_an_early_event_enters_with_its_pane():
    aggregate = topic()
    aggregate.apply(1, T, [event(T + 4_999, x=1)])
    assert [rows_of(frame) for frame in aggregate.flush(T)] == [
        {(None, None): [0, 0.0, *[None] * 8], (None, "x"): [0, 0.0, 0.0, *[None] * 7]}
    ] * 2
    assert aggregate.wake_at() == T + 4_000
    aggregate.advance(T + 4_000)
    assert [f.window for f in aggregate.flush(T + 4_000)] == ["1m"]
    assert aggregate.wake_at() == T + 4_750
    aggregate.advance(T + 4_750)
    assert rows_of(aggregate.flush(T + 4_750)[0])["a", "x"][:3] == [1, 0.1, 1]


def test_an_event_too_far_ahead_is_counted_as_such_and_left_out():
    aggregate = topic()
    aggregate.apply(2, T, [event(T + 10_000), event(T + 10_001), event(T + 10**12)])
    assert aggregate.ahead == 2
    aggregate.advance(T + 10_000)
    assert rows_of(aggregate.snapshot("10s"))["a", None][0] == 1


def test_a_long_silence_empties_everything_at_once():
    aggregate = topic()
    aggregate.apply(2, T, [event(x=1), event(T + 5_000, x=2)])
    aggregate.flush(T)
    aggregate.apply(3, T + 10**10, [event(x=3)])
    assert all(rows_of(f)["a", "x"][:3:2] == [1, 3] for f in aggregate.flush(T + 10**10))


def test_the_clock_never_goes_back():
    aggregate = topic(TEN_SECONDS)
    aggregate.apply(1, T + 5_000, [event()])
    aggregate.advance(T)
    aggregate.apply(2, T, [event()])
    assert aggregate.snapshot("10s").end == T + 5_250


# -- cadence


def test_updates_come_at_once_then_once_per_cadence_and_end_with_the_last_state():
    aggregate = topic(SHORT)
    aggregate.watch("10s", True)
    aggregate.apply(1, T, [event()])
    assert [f.window for f in aggregate.due(T)] == ["10s", "1m"]
    aggregate.apply(2, T + 1, [event()])
    assert aggregate.due(T + 1) == []
    assert aggregate.wake_at() == T + 100
    assert aggregate.due(T + 99) == []
    (frame,) = aggregate.due(T + 100)
    assert (frame.window, frame.offset, frame.cadence) == ("10s", 2, 100)
    assert aggregate.wake_at() == T + 1_000
    (frame,) = aggregate.due(T + 1_000)
    assert (frame.window, frame.offset, frame.cadence) == ("1m", 2, 1_000)
    aggregate.watch("1m", True)
    aggregate.apply(3, T + 1_200, [event()])
    assert [f.window for f in aggregate.due(T + 1_200)] == ["10s", "1m"]


def test_cadence_zero_means_an_update_per_entry():
    aggregate = topic()
    for offset in range(5):
        aggregate.apply(offset, T, [event()])
        assert len(aggregate.due(T)) == 2
        assert aggregate.due(T) == []


def test_large_updates_stretch_the_cadence_to_two_megabytes_a_second():
    aggregate = topic()
    aggregate.apply(1, T, [event(key=f"key-{n}", x=n / 3) for n in range(200)])
    frame = aggregate.due(T)[0]
    assert frame.cadence == int(frame.size / 1_000) > 10
    aggregate.apply(2, T + 1, [event()])
    assert aggregate.due(T + frame.cadence - 1) == []
    assert aggregate.due(T + frame.cadence)[0].cadence == 0


def test_flush_ignores_the_cadence_and_a_snapshot_takes_the_changes():
    aggregate = topic(SHORT)
    aggregate.apply(1, T, [event()])
    aggregate.due(T)
    aggregate.apply(2, T, [event()])
    assert rows_of(aggregate.snapshot("10s"))["a", None][0] == 2
    assert [f.window for f in aggregate.flush(T)] == ["1m"]


# -- the event clock


def test_only_event_times_move_the_event_clock():
    aggregate = topic(EVENT_CLOCK)
    aggregate.apply(2, T, [event(1_000_000, x=1), event(1_009_000, x=2)])
    aggregate.advance(T + 10**9)
    assert [(f.window, f.end, rows_of(f)["a", "x"][0]) for f in aggregate.flush(T)] == [
        ("10s", 1_009_250, 2),
        ("1m", 1_010_000, 2),
    ]
    assert aggregate.wake_at() is None
    aggregate.apply(3, T, [event(1_030_000, x=3)])
    assert [rows_of(f)["a", "x"][0] for f in aggregate.flush(T)] == [1, 3]


def test_on_the_event_clock_an_event_is_late_after_a_newer_one():
    events = [event(0, w=1), event(30_000, x=1), event(15_000, y=1), event(90_000), event(31_000)]
    whole, single = topic(EVENT_CLOCK), topic(EVENT_CLOCK)
    whole.apply(5, T, events)
    for offset, one in enumerate(events, 1):
        single.apply(offset, T, [one])
    assert (whole.late, whole.late_by_window) == (single.late, single.late_by_window) == (0, {"10s": 2, "1m": 0})
    assert rows_of(whole.snapshot("1m")) == rows_of(single.snapshot("1m"))


# -- topics and times


def test_closing_a_topic_removes_its_late_events_and_no_others():
    aggregate = topic()
    aggregate.all.open("other", T)
    for second in range(0, 60, 15):
        now = T + second * 1_000
        for name, ahead in (("t", -25_000), ("other", 0)):
            late = Columns.from_events([event(now + ahead, x=1.0)])
            aggregate.all.apply(name, second + 1, now, late)
    aggregate.flush(now)
    aggregate.all.close("t")
    assert rows_of(aggregate.all.snapshot("other", "1m"))["a", "x"][:3] == [4, 4 / 60, 4.0]
    assert [frame.topic for frame in aggregate.flush(T + 60_000)] == []


def test_the_earliest_accepted_time_can_be_formatted():
    aggregate = topic(dataclasses.replace(EVENT_CLOCK, windows=(Window.parse("24h"),)))
    aggregate.apply(1, T, [event(-62_135_596_800_000 + 86_400_000, x=1)])
    assert b'"from":"0001-01-01T00:' in aggregate.snapshot("24h").to_json(T)


# -- numbers


def test_a_statistic_beyond_the_range_of_doubles_is_null():
    aggregate = topic(TEN_SECONDS)
    aggregate.apply(2, T, [event(x=1.7e308), event(x=1.7e308)])
    assert rows_of(aggregate.snapshot("10s"))["a", "x"][2:7] == [None, None, 1.7e308, 1.7e308, None]
    aggregate.apply(4, T + 30_000, [event(x=2**63), event(x=1)])
    assert rows_of(aggregate.snapshot("10s"))["a", "x"][2:5] == [2.0**63, 2.0**62, 1.0]


def test_std_is_exact_after_a_jump_has_left_the_window():
    producer = Producer(topic(TEN_SECONDS))
    for step in range(12):
        level = 1e9 if 4 <= step < 8 else 0.0
        spike = 1e15 if step == 6 else 0.0
        producer.send(T + step * 4_000, event(x=level + spike + (step * 37 % 64) / 64))
        if step % 3 == 2:
            frame = producer.aggregate.snapshot("10s")
            assert_same(rows_of(frame), expected(producer.log, frame, 10))


# -- state


def test_a_batch_counts_the_same_however_it_is_cut_into_entries():
    events = [event(T - 12_000, x=1e9), event(x=0.1), event(T + 3_000, key="b", x=0.7), event(T - 1, key="b", y=2)]
    frames = []
    for sizes in ((4,), (1, 3), (1, 1, 1, 1)):
        aggregate, offset = topic(MINUTE), 0
        for size in sizes:
            aggregate.apply(offset + size, T, events[offset : offset + size])
            offset += size
        aggregate.advance(T + 3_500)
        frames.append(rows_of(aggregate.snapshot("1m")))
    for other in frames[1:]:
        assert_same(frames[0], other)


@pytest.mark.parametrize("options", [NOW, EVENT_CLOCK])
def test_a_restored_aggregate_emits_the_same_bytes(options):
    stayed = topic(dataclasses.replace(options, windows=options.windows[:1]))
    stayed.apply(3, T, [event(x=1.5), event(T - 6_000, key="b", x=0.1), event(T + 4_000, y=2)])
    stayed.flush(T)
    stayed.apply(4, T + 100, [event(T - 3_000, x=1e9)])
    restored = stayed.saved_and_restored()
    for offset, now in enumerate((T + 4_100, T + 14_000), 5):
        for aggregate in (stayed, restored):
            aggregate.apply(offset, now, [event(now - 9_000, x=offset / 3), event(now, key="c", y=1)])
        mine, other = ([frame.to_json(now) for frame in one.flush(now)] for one in (stayed, restored))
        assert mine == other != []
        assert restored.wake_at() == stayed.wake_at()


def test_a_state_of_other_settings_or_versions_is_refused():
    data = b"".join(topic(NOW).all.save())
    for settings, state in ((SHORT, data), (NOW, data[:-1]), (NOW, b""), (NOW, b"\x93\x01\x02\x03"), (NOW, data[1:])):
        with pytest.raises(InvalidState):
            Aggregate.restore(settings, state)


def test_a_topic_without_quantiles_can_be_closed():
    aggregate = topic(dataclasses.replace(NOW, statistics=()))
    aggregate.apply(1, T, [event(x=1)])
    aggregate.flush(T)
    aggregate.all.close("t")
    assert aggregate.all.topics == {}


# -- lateness


@pytest.mark.parametrize("clock", [T, T + 5_999, T + 6_000])
@pytest.mark.parametrize("options", [NOW, dataclasses.replace(NOW, exact=True)])
def test_the_settings_and_the_aggregate_agree_on_the_first_time_that_is_not_late(options, clock):
    for time, late in ((options.late_before(clock), 0), (options.late_before(clock) - 1, 1)):
        aggregate = topic(options)
        aggregate.apply(1, clock, [event(time)])
        assert aggregate.late == late


def test_no_event_is_late_for_a_window_of_the_last_events():
    assert dataclasses.replace(NOW, windows=(*NOW.windows, Window.parse("last 10"))).late_before(T) is None
