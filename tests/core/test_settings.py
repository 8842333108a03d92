from dataclasses import replace

import pytest

from pushsvc.settings import STATISTICS, Ack, TopicRules, TopicSettings
from pushsvc.stats.window import Window

DEFAULT = TopicSettings()
VALUES = replace(DEFAULT, values=("user",), statistics=("p50", "distinct", "top5", "first"))


def test_windows_by_default_are_a_minute_and_five_and_fifteen():
    assert [window.name for window in DEFAULT.windows] == ["1m", "5m", "15m"]
    assert (DEFAULT.longest, DEFAULT.last, DEFAULT.percents) == (900_000, 0, (50, 95, 99))


def test_columns_are_those_that_rows_have():
    assert DEFAULT.columns == ("key", "field", *STATISTICS, "p50", "p95", "p99")
    assert VALUES.columns == ("key", "field", *STATISTICS, "p50", "distinct", "top5", "first", "approximate")
    assert replace(VALUES, statistics=("first", "last")).columns[9:] == ("first", "last")
    assert replace(DEFAULT, key=("a", "a+b")).columns[-1] == "by"


def test_keys_are_ranked_by_numbers_alone():
    assert VALUES.ranked == (*STATISTICS, "p50", "distinct")
    assert (VALUES.of_values, VALUES.percents) == (("distinct", "top5", "first"), (50,))


def test_exact_windows_are_so_for_time_and_as_they_were_for_events():
    settings = replace(DEFAULT, windows=tuple(map(Window.parse, ("10s", "last 50", "last 9"))), exact=True)
    assert [(window.pane, window.events) for window in settings.windows] == [(1, 0), (0, 50), (0, 9)]
    assert (settings.longest, settings.last) == (10_000, 50)
    assert replace(settings, windows=settings.windows[1:]).longest == 0


def test_a_window_is_found_by_any_spelling():
    settings = replace(DEFAULT, windows=tuple(map(Window.parse, ("1m", "last 50"))))
    assert [settings.window(name) for name in ("1m", "last 50", "last50", "last  50")] == [
        settings.windows[0], *[settings.windows[1]] * 3
    ]  # fmt: skip
    assert [settings.window(name) for name in ("last 51", "5m", "last", " 1m")] == [None] * 4


def test_a_log_is_full_at_four_times_what_it_keeps():
    assert replace(DEFAULT, retention_bytes=1_000).full_bytes == 4_000
    assert replace(DEFAULT, retention_bytes=0).full_bytes == 0


def test_the_first_rule_that_matches_a_topic_wins():
    first, second = (replace(DEFAULT, max_keys=number) for number in (1, 2))
    rules = TopicRules([("a.b", first), ("a.*", second)], DEFAULT)
    assert [rules.settings_of(topic) for topic in ("a.b", "a.c", "b")] == [first, second, DEFAULT]


def test_what_an_acknowledgement_says():
    for text, ack in [("memory", Ack()), ("fsync", Ack(fsync=True)), ("replicas:99", Ack(replicas=99))]:
        assert (Ack.parse(text), str(ack), bool(ack)) == (ack, text, text != "memory")


def test_what_is_no_acknowledgement():
    for text in ["", "disk", "Memory", "fsync ", "replicas", "replicas:0", "replicas:100", "replicas:٣"]:
        with pytest.raises(ValueError, match="memory, fsync and replicas:N"):
            Ack.parse(text)
