"""The states of an alert's rows."""

import math
from dataclasses import dataclass

import numpy as np

from pushsvc.alerts.condition import EventTest, Numbers, Statistic, Truths
from pushsvc.alerts.rule import AlertRule, read_rule
from pushsvc.alerts.states import MOST_ROWS, AlertStates


@dataclass
class Counts:
    """``count`` of each row, in their order; keys without one have no events."""

    rows: list[str | None]
    counts: dict[str | None, int]

    def numbers(self, statistic: Statistic) -> Numbers:
        if statistic.name == "count":
            return np.array([float(self.counts.get(row, 0)) for row in self.rows])
        return np.array([float(self.counts[row]) if self.counts.get(row) else math.nan for row in self.rows])

    def truths(self, test: EventTest) -> Truths:
        raise AssertionError(test)


def rule(**members: str) -> AlertRule:
    return read_rule("a", {"topic": "t", "when": "count(5m) > 3", **members})


def test_a_pending_row_names_when_it_raises() -> None:
    states = AlertStates(rule(**{"for": "2m"}))
    assert states.wake_at() is None
    states.apply(states.evaluate([None], Counts([None], {None: 4}), 5_000))
    assert states.wake_at() == 125_000
    (change,) = states.evaluate([None], Counts([None], {None: 5}), 125_000)
    assert (change.kind, change.since, change.value) == ("raised", 5_000, 5.0)


def test_nothing_changes_before_it_is_applied() -> None:
    states = AlertStates(rule())
    assert states.evaluate([None], Counts([None], {None: 4}), 1) == states.evaluate(
        [None], Counts([None], {None: 4}), 1
    )


def test_an_undefined_value_neither_raises_nor_meets_until() -> None:
    states = AlertStates(rule(when="mean(x, 5m) > 3", until="mean(x, 5m) < 2"))
    assert not states.evaluate([None], Counts([None], {}), 1)
    states.apply(states.evaluate([None], Counts([None], {None: 4}), 2))
    assert not states.evaluate([None], Counts([None], {}), 3)
    assert [one.kind for one in states.evaluate([None], Counts([None], {None: 1}), 4)] == ["resolved"]


def test_a_key_that_falls_silent_is_remembered() -> None:
    states = AlertStates(rule(when="count(10m) = 0", by="key"))
    states.apply(states.evaluate(["a"], Counts(["a"], {"a": 2}), 1))
    assert list(states.rows) == ["a"]
    (change,) = states.evaluate(["a"], Counts(["a"], {}), 2)
    assert (change.kind, change.value) == ("raised", 0.0)
    states.apply([change])
    (change,) = states.evaluate(["a"], Counts(["a"], {"a": 1}), 3)
    assert change.kind == "resolved"
    states.apply([change])
    assert list(states.rows) == ["a"]


def test_rows_beyond_the_bound_are_counted_and_left_out() -> None:
    states = AlertStates(rule(by="key"))
    names: list[str | None] = [f"k{number}" for number in range(MOST_ROWS + 5)]
    changes = states.evaluate(names, Counts(names, dict.fromkeys(names, 9)), 1)
    assert (len(changes), states.refused) == (MOST_ROWS, 5)
