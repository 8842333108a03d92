"""The states of an alert's rows, against a plain loop over single rows."""

from dataclasses import dataclass, field

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pushsvc.alerts.condition import EventTest, Numbers, Statistic, Truths
from pushsvc.alerts.rule import read_rule
from pushsvc.alerts.states import AlertStates

KEYS = ("a", "b", "c")


@dataclass
class Counts:
    """``count`` of each row, in their order; keys without one have no events."""

    rows: list[str | None]
    counts: dict[str, int]

    def numbers(self, statistic: Statistic) -> Numbers:
        assert statistic.name == "count"
        return np.array([float(self.counts.get(row or "", 0)) for row in self.rows])

    def truths(self, test: EventTest) -> Truths:
        raise AssertionError(test)


@dataclass
class PlainAlert:
    """One row, told in ifs."""

    above: int
    below: int | None
    hold: int
    began: int | None = None
    raised: bool = False
    told: list[tuple[str, int]] = field(default_factory=list)

    def see(self, count: int, now: int) -> None:
        met = count > self.above
        if self.raised:
            if not met and (self.below is None or count < self.below):
                self.raised, self.began = False, None
                self.told.append(("resolved", now))
        elif not met:
            self.began = None
        else:
            self.began = now if self.began is None else self.began
            if now - self.began >= self.hold:
                self.raised = True
                self.told.append(("raised", now))


@given(
    st.lists(st.dictionaries(st.sampled_from(KEYS), st.integers(0, 9)), max_size=40),
    st.integers(0, 6),
    st.none() | st.integers(0, 6),
    st.sampled_from([0, 1, 3]),
)
def test_rows_change_as_in_a_plain_loop(
    steps: list[dict[str, int]], above: int, below: int | None, hold: int
) -> None:  # fmt: skip
    table = {"topic": "t", "when": f"count(5m) > {above}", "by": "key"}
    if below is not None:
        table["until"] = f"count(5m) < {below}"
    if hold:
        table["for"] = f"{hold}s"
    states = AlertStates(read_rule("a", table))
    plain = {key: PlainAlert(above, below, hold * 1_000) for key in KEYS}
    told: dict[str, list[tuple[str, int]]] = {key: [] for key in KEYS}
    for place, counts in enumerate(steps):
        now = 1_000 * place
        names: list[str | None] = sorted({*counts, *(row for row in states.rows if row is not None)})
        changes = states.evaluate(names, Counts(names, counts), now)
        states.apply(changes)
        for change in changes:
            if change.kind and change.row is not None:
                told[change.row].append((change.kind, now))
        for key, one in plain.items():
            one.see(counts.get(key, 0), now)
    assert told == {key: one.told for key, one in plain.items()}
