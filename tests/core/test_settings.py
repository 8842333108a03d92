from dataclasses import replace

import pytest

from pushsvc.errors import InvalidSetting
from pushsvc.settings import STATISTICS, Ack, TopicRules, TopicSettings
from pushsvc.stats.window import Window

DEFAULT = TopicSettings()
VALUES = replace(DEFAULT, values=("user",), statistics=("p50", "distinct", "top5", "first"))


def test_default_windows_are_1_5_and_15_minutes():
    assert [window.name for window in DEFAULT.windows] == ["1m", "5m", "15m"]
    assert (DEFAULT.longest_window, DEFAULT.largest_count_window, DEFAULT.percents) == (900_000, 0, (50, 95, 99))


def test_no_event_is_late_without_windows():
    settings = replace(DEFAULT, windows=())
    assert (settings.longest_window, settings.largest_count_window, settings.late_before(10**13)) == (0, 0, None)


def test_columns_follow_from_the_statistics_and_the_key():
    assert DEFAULT.columns == ("key", "field", *STATISTICS, "p50", "p95", "p99")
    assert VALUES.columns == ("key", "field", *STATISTICS, "p50", "distinct", "top5", "first", "approximate")
    assert replace(VALUES, statistics=("first", "last")).columns[9:] == ("first", "last")
    assert replace(DEFAULT, key=("a", "a+b")).columns[-1] == "by"


def test_keys_can_be_ranked_by_numeric_columns_only():
    assert VALUES.rankable == (*STATISTICS, "p50", "distinct")
    assert (VALUES.value_statistics, VALUES.percents) == (("distinct", "top5", "first"), (50,))


def test_exact_changes_time_windows_only():
    settings = replace(DEFAULT, windows=tuple(map(Window.parse, ("10s", "last 50", "last 9"))), exact=True)
    assert [(window.pane, window.events) for window in settings.windows] == [(1, 0), (0, 50), (0, 9)]
    assert (settings.longest_window, settings.largest_count_window) == (10_000, 50)
    assert replace(settings, windows=settings.windows[1:]).longest_window == 0


def test_window_accepts_every_spelling_of_a_count_window():
    settings = replace(DEFAULT, windows=tuple(map(Window.parse, ("1m", "last 50"))))
    assert [settings.window(name) for name in ("1m", "last 50", "last50", "last  50")] == [
        settings.windows[0], *[settings.windows[1]] * 3
    ]  # fmt: skip
    assert [settings.window(name) for name in ("last 51", "5m", "last", " 1m")] == [None] * 4


def test_a_log_is_full_at_four_times_its_retention_bytes():
    assert replace(DEFAULT, retention_bytes=1_000).full_bytes == 4_000
    assert replace(DEFAULT, retention_bytes=0).full_bytes == 0


def test_the_first_matching_rule_wins():
    first, second = (replace(DEFAULT, max_keys=number) for number in (1, 2))
    rules = TopicRules([("a.b", first), ("a.*", second)], DEFAULT)
    assert [rules.settings_of(topic) for topic in ("a.b", "a.c", "b")] == [first, second, DEFAULT]


def test_ack_round_trips_through_text():
    for text, ack in [("memory", Ack()), ("fsync", Ack(fsync=True)), ("replicas:99", Ack(replicas=99))]:
        assert (Ack.parse(text), str(ack), bool(ack)) == (ack, text, text != "memory")


def test_ack_refuses_any_other_text():
    for text in ["", "disk", "Memory", "fsync ", "replicas", "replicas:0", "replicas:100", "replicas:٣"]:
        with pytest.raises(ValueError, match="memory, fsync or replicas:N"):
            Ack.parse(text)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"values": ("user",), "statistics": ("distinct",)}, "values"),
        ({"exact": True}, "exact windows"),
        ({"windows": (Window.parse("last 50"),)}, "windows of the last N events"),
    ],
)
def test_what_cannot_be_merged_has_no_parts(changes, reason):
    replace(DEFAULT, **changes)
    with pytest.raises(InvalidSetting, match=f"a topic with {reason} cannot have parts"):
        replace(DEFAULT, **changes, parts=2)
