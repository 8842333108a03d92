"""The states of a rule's rows, and the transitions between them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from pushsvc.alerts.condition import TRUE, Source, numbers, truths
from pushsvc.alerts.rule import AlertRule

MOST_ROWS = 10_000
"""Most rows of one alert that are pending, raised or remembered."""


class State(StrEnum):
    OK = "ok"
    PENDING = "pending"
    RAISED = "raised"


@dataclass(frozen=True, slots=True)
class RowState:
    """The state of a row. ``since`` is the ms when its condition began to hold, or for OK when it ceased to.

    ``value`` is that of the rule's first statistic at the last change.
    """

    state: State
    since: int
    value: float | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """A row's new state, None to forget the row. ``kind`` is the event that it brings: raised, resolved or none."""

    row: str | None
    after: RowState | None
    kind: str | None = None
    since: int = 0
    value: float | None = None


@dataclass(slots=True)
class AlertStates:
    """The rows of a rule that are not just OK. A rule that absence raises also remembers keys that are OK."""

    rule: AlertRule
    rows: dict[str | None, RowState] = field(default_factory=dict)
    refused: int = 0  # rows that had no room at the last evaluation

    def evaluate(self, names: Sequence[str | None], source: Source, now: int) -> list[Change]:
        """Return what changes at ``now`` (ms). ``source`` answers for the rows ``names`` [n], which have all of
        ``rows``. Nothing changes before ``apply``."""
        rule, count = self.rule, len(names)
        met = np.broadcast_to(truths(rule.condition, source) == TRUE, count)
        over = ~met
        if rule.release is not None:
            over = over & (np.broadcast_to(truths(rule.release, source), count) == TRUE)
        values = np.broadcast_to(numbers(rule.statistics[0], source), count)
        remembers = rule.by is not None and rule.fires_when_absent
        places: Iterable[int] = range(count)
        if not remembers:
            known = [place for place, name in enumerate(names) if name in self.rows] if self.rows else []
            places = sorted({*np.flatnonzero(met).tolist(), *known})
        room, self.refused = MOST_ROWS - len(self.rows), 0
        changes = []
        for place in places:
            name = names[place]
            value = None if np.isnan(values[place]) else float(values[place])
            change = self._step(name, bool(met[place]), bool(over[place]), value, now, remembers)
            if change is None:
                continue
            if name not in self.rows:
                if not room:
                    self.refused += 1
                    continue
                room -= 1
            changes.append(change)
        return changes

    def _step(
        self, name: str | None, met: bool, over: bool, value: float | None, now: int, remembers: bool
    ) -> Change | None:
        before = self.rows.get(name)
        calm = RowState(State.OK, now, value) if remembers else None
        match before.state if before else State.OK:
            case State.RAISED if before:
                return Change(name, calm, "resolved", before.since, value) if over else None
            case State.PENDING if before:
                if not met:
                    return Change(name, calm)
                held = now - before.since >= self.rule.hold
                after = RowState(State.RAISED, before.since, value)
                return Change(name, after, "raised", before.since, value) if held else None
        if met and self.rule.hold:
            return Change(name, RowState(State.PENDING, now, value))
        if met:
            return Change(name, RowState(State.RAISED, now, value), "raised", now, value)
        return Change(name, calm) if before is None and calm is not None else None

    def apply(self, changes: Iterable[Change]) -> None:
        """Take changes over, once they are stored."""
        for change in changes:
            if change.after is None:
                self.rows.pop(change.row, None)
            else:
                self.rows[change.row] = change.after

    def wake_at(self) -> int | None:
        """Return the ms at which a pending row will have held long enough; None if there is none."""
        pending = [row.since for row in self.rows.values() if row.state is State.PENDING]
        return min(pending) + self.rule.hold if pending else None
