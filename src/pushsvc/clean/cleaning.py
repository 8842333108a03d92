"""Applies rules to a table of pandas, and reports what each of them did."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from pushsvc.clean.actions import Outcome, apply
from pushsvc.clean.rules import InvalidRules, Rule, Rules

LISTED = 20
"""Refused rows that a report names for each rule."""


@dataclass(frozen=True)
class RuleReport:
    """What a rule did: how many values it changed, how many rows it refused, and the labels of the first of them."""

    rule: str
    changed: int
    refused: int
    rows: list[Any] = field(default_factory=list)

    def public(self) -> dict[str, Any]:
        """Return the report as JSON may have it."""
        return {"rule": self.rule, "changed": self.changed, "refused": self.refused, "rows": self.rows}


@dataclass(frozen=True)
class Cleaned:
    """A table after its cleaning. ``refused`` are the rows that were left out, as they came, with a column
    ``refused_by``, the rule. ``report`` has an entry for each rule."""

    table: pd.DataFrame
    refused: pd.DataFrame
    report: list[RuleReport]


def clean(
    table: pd.DataFrame, rules: Rules | Sequence[Mapping[str, Any]], on_rule: Callable[[str], None] = lambda _: None
) -> Cleaned:
    """Return a table after the rules, which apply in their order; the given one stays as it is.

    A row that a rule refused is not seen by the next ones. ``rules`` are Rules, or tables as ``Rules.of`` takes them.
    ``on_rule`` is called with the title of each rule before it applies. Raise InvalidRules, also for a rule that does
    not fit the table.
    """
    if not table.index.is_unique:
        raise InvalidRules("the index of the table names rows in the report, but some rows have the same label")
    if not table.columns.is_unique:
        twice = table.columns[table.columns.duplicated()][0]
        raise InvalidRules(f"two columns are named {twice!r}")
    wanted = rules if isinstance(rules, Rules) else Rules.of(rules)
    left, refused, report = table.copy(), list[pd.DataFrame](), list[RuleReport]()
    for number, rule in enumerate(wanted, 1):
        on_rule(rule.title)
        outcome = _apply(number, rule, left)
        rows = outcome.refused[outcome.refused].index
        if len(rows):
            refused.append(table.loc[rows].assign(refused_by=rule.title))
        labels = [label.item() if hasattr(label, "item") else label for label in rows[:LISTED]]
        report.append(RuleReport(rule.title, outcome.changed, len(rows), labels))
        left = outcome.table[~outcome.refused]
    nothing = table.iloc[:0].assign(refused_by=pd.Series(dtype=object))
    return Cleaned(left, pd.concat(refused).sort_index() if refused else nothing, report)


def _apply(number: int, rule: Rule, table: pd.DataFrame) -> Outcome:
    named = [*rule.fields, *filter(None, [getattr(rule, "by", None)])]
    for column in named:
        if column not in table.columns:
            columns = ", ".join(map(str, table.columns[:20]))
            detail = f"there is no column {column!r}; the columns are {columns}"
            raise InvalidRules(f"rule {number} ({rule.title}): {detail}")
    try:
        return apply(rule, table)
    except InvalidRules as error:
        raise InvalidRules(f"rule {number} ({rule.title}): {error}") from None
    except (TypeError, UnicodeEncodeError) as error:  # an object where a value is meant; half of a surrogate pair
        raise InvalidRules(f"rule {number} ({rule.title}) does not fit the values: {error}") from None
