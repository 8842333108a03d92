"""Conditions of alerts: what can be written, and the errors that name what cannot."""

import math

import numpy as np
import pytest

from pushsvc.alerts.condition import FALSE, TRUE, UNKNOWN, EventTest, Numbers, Statistic, Truths, leaves, truths
from pushsvc.alerts.grammar import DEEPEST, LONGEST, InvalidCondition, parse
from pushsvc.alerts.rule import AlertRule, InvalidAlert, check_rule, read_rule
from pushsvc.settings import TopicSettings
from pushsvc.stats.window import Window


class Values:
    """Statistics of one row by their text, events by their data."""

    def __init__(self, **values: float) -> None:
        self._values = values

    def numbers(self, statistic: Statistic) -> Numbers:
        return np.array([self._values.get(statistic.name, math.nan)])

    def truths(self, test: EventTest) -> Truths:
        return np.array([TRUE if test.test(self._values) else FALSE], np.int8)


def holds(text: str, **values: float) -> int:
    return int(truths(parse(text), Values(**values))[0])


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        ("mean(rating, 5m) < 3 and count(5m) >= 5", {"mean": 2, "count": 5}, TRUE),
        ("mean(rating, 5m) < 3 and count(5m) >= 5", {"mean": 2, "count": 4}, FALSE),
        ("count(10m) = 0", {"count": 0}, TRUE),
        ("count(10m) == 0", {"count": 1}, FALSE),
        ("mean(rating, 5m) < 3", {}, UNKNOWN),
        ("not mean(rating, 5m) < 3", {}, UNKNOWN),
        ("mean(rating, 5m) < 3 or count(5m) > 1", {"count": 2}, TRUE),
        ("mean(rating, 5m) < 3 and count(5m) > 1", {"count": 1}, FALSE),
        ("count(5m) > 1 or count(5m) < 1 and mean(x, 5m) > 9", {"count": 2, "mean": 1}, TRUE),
        ("not (count(5m) > 1 or mean(x, 5m) > 9)", {"count": 1, "mean": 1}, TRUE),
        ("sum(x, 5m) / count(5m) > 2", {"sum": 9, "count": 3}, TRUE),
        ("sum(x, 5m) / count(5m) > 2", {"sum": 9, "count": 0}, UNKNOWN),
        ("(sum(x, 5m) - 1) * 2 = 2 + 3 * 4", {"sum": 8}, TRUE),
        ("-count(5m) >= -2.5e0", {"count": 2}, TRUE),
        ("event.rating <= 1", {"rating": 1}, TRUE),
        ("event.rating <= 1 and event.dish != \"soup\"", {"rating": 1, "dish": "soup"}, FALSE),
        ('event.note ~ "COLD"', {"note": "a cold soup"}, TRUE),
        ('event."unit price" > 3', {"unit price": 4}, TRUE),
        ("event.paid = false", {"paid": False}, TRUE),
    ],
)  # fmt: skip
def test_a_condition_holds_by_the_values(text: str, values: dict[str, float], expected: int) -> None:
    assert holds(text, **values) == expected


def test_statistics_name_field_window_and_key() -> None:
    found = list(leaves(parse('mean("unit price", last 100, key="a,b") > 0.5 * count(x, 5m, key=*) + p95(ms, last10)')))
    assert found == [
        Statistic("mean", "unit price", "last 100", "a,b"),
        Statistic("count", "x", "5m", all_keys=True),
        Statistic("p95", "ms", "last10"),
    ]


@pytest.mark.parametrize(
    ("text", "fault", "position"),
    [
        ("", "unexpected", 1),
        ("meen(rating, 5m) < 3", "unknown-statistic", 1),
        ("3 < mean(5m)", "missing-field", 5),
        ("count(5m)", "not-a-condition", 1),
        ("count(5m) > 3 and count(5m)", "not-a-condition", 19),
        ("1 < (count(5m) > 3)", "not-a-number", 5),
        ("1 < count(5m) < 3", "chained", 15),
        ("count(5m) > 3 > 2", "chained", 15),
        ("1 < 2", "constant", 1),
        ("count(5m) > 1 and event.x > 1", "mixed", 19),
        ("1 > event.x", "mixed", 5),
        ("event.x", "unexpected", 8),
        ("event.x > true", "invalid-test", 1),
        ("event.x > y", "unexpected", 11),
        ("count(5m > 3", "unexpected", 10),
        ("count(5m) > 3)", "unexpected", 14),
        ("count(5m) ? 3", "unreadable", 11),
        ("count(5m) > 5m", "unexpected", 13),
        ("count(5m) > 5x", "unreadable", 13),
        ("count(5m) > 1e999", "too-large", 13),
        ("count(a, b, 5m) > 1", "unexpected", 13),
        ("count(5m, key=u1) > 1", "unexpected", 15),
        ("(" * (DEEPEST + 1), "too-deep", DEEPEST + 1),
        ("not " * 50 + "count(5m) > 1", "too-deep", 4 * DEEPEST + 1),
        ("-" * 50 + "count(5m) > 1", "too-deep", DEEPEST + 1),
        ("count(5m) > 1" + " " * LONGEST, "too-long", LONGEST + 1),
        ("count(5m)>" + "1+" * 200 + "1", "too-many-terms", 209),
    ],
)
def test_an_error_names_its_kind_and_its_place(text: str, fault: str, position: int) -> None:
    with pytest.raises(InvalidCondition) as caught:
        parse(text)
    assert (caught.value.fault, caught.value.position) == (fault, position), str(caught.value)
    assert f"at character {position}:" in str(caught.value)


@pytest.mark.parametrize(
    ("table", "member", "fault"),
    [
        ({"when": "count(5m) > 1"}, "topic", None),
        ({"topic": "t"}, "when", None),
        ({"topic": "$t", "when": "count(5m) > 1"}, "topic", None),
        ({"topic": "alerts", "when": "count(5m) > 1"}, "topic", None),
        ({"topic": "t", "when": 3}, "when", None),
        ({"topic": "t", "when": "count(5m) > 1", "unless": "x"}, "unless", None),
        ({"topic": "t", "when": "count(5m) > 1", "for": "2 minutes"}, "for", None),
        ({"topic": "t", "when": "count(5m) > 1", "for": "25h"}, "for", None),
        ({"topic": "t", "when": "count(5m) > 1", "until": "nonsense"}, "until", "unknown-statistic"),
        ({"topic": "t", "when": "count(5m) > 1", "until": "event.x = 1"}, "until", None),
        ({"topic": "t", "when": "event.x = 1", "for": "2m"}, "for", None),
        ({"topic": "t", "when": "count(7m) > 1"}, "when", "unknown-window"),
        ({"topic": "t", "when": "p42(x, 5m) > 1"}, "when", "unknown-statistic"),
        ({"topic": "t", "when": "distinct(x, 5m) > 1"}, "when", "unknown-statistic"),
        ({"topic": "t", "when": "rate(last 100) > 1"}, "when", "unknown-statistic"),
        ({"topic": "t", "when": "count(5m) > 1", "by": "user"}, "by", None),
    ],
)
def test_a_faulty_alert_names_the_member(table: dict[str, object], member: str, fault: str | None) -> None:
    settings = TopicSettings(windows=(Window.parse("5m"), Window.parse("last 100")))
    with pytest.raises(InvalidAlert) as caught:
        check_rule(read_rule("a", table), settings)
    assert (caught.value.member, caught.value.fault) == (member, fault)


def test_an_alert_is_public_as_it_is_read() -> None:
    table = {"topic": "t", "when": "count(5m) > 1", "until": "count(5m) < 1", "for": "90s", "by": "key", "webhook": "u"}
    rule = read_rule("a.b", table)
    assert rule.public() == {"name": "a.b", **table}
    assert rule == AlertRule("a.b", "t", "count(5m) > 1", "count(5m) < 1", 90_000, "key", "u")


def test_an_unknown_window_is_refused_by_name() -> None:
    with pytest.raises(InvalidAlert, match=r"at character 1: t has no window '7m'; its windows: 1m, 5m, 15m"):
        check_rule(read_rule("a", {"topic": "t", "when": "count(7m) > 1"}), TopicSettings())
