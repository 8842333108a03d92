"""The tree of a condition, and its values: for several rows, or several events, at once.

Numbers are arrays of floats, NaN where a statistic is undefined. Truths are arrays of FALSE, UNKNOWN and TRUE (Kleene's
logic): a comparison with an undefined number is UNKNOWN, ``not`` keeps it so, and no alert is raised by it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from dataclasses import field as member
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pushsvc.event.conditions import Test

FALSE, UNKNOWN, TRUE = 0, 1, 2

Numbers = NDArray[np.float64]
Truths = NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class Statistic:
    """A statistic of a window: of the row of the alert, of one ``key``, or of ``all_keys`` together.

    ``field`` is None for the number of events. ``position`` is its place in the text, from 1.
    """

    name: str
    field: str | None
    window: str
    key: str | None = None
    all_keys: bool = False
    position: int = member(default=1, compare=False)

    @property
    def if_absent(self) -> float:
        """What it is without events."""
        return 0.0 if self.name in ("count", "rate", "sum", "distinct") else np.nan


@dataclass(frozen=True, slots=True)
class EventTest:
    """A test of one event, such as ``event.rating <= 1``."""

    field: str
    test: Test = member(compare=False)
    position: int = member(default=1, compare=False)


@dataclass(frozen=True, slots=True)
class Number:
    value: float


@dataclass(frozen=True, slots=True)
class Negative:
    operand: Node


@dataclass(frozen=True, slots=True)
class Arithmetic:
    sign: str
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Comparison:
    sign: str
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Not:
    operand: Node


@dataclass(frozen=True, slots=True)
class Junction:
    """``and`` of all operands, or ``or``."""

    both: bool
    operands: tuple[Node, ...]


Node = Statistic | EventTest | Number | Negative | Arithmetic | Comparison | Not | Junction


class Source(Protocol):
    """What a condition is asked of: rows of statistics, or events. Arrays have one element per row or event, or one."""

    def numbers(self, statistic: Statistic) -> Numbers:
        """Return the values of a statistic; NaN where it is undefined."""

    def truths(self, test: EventTest) -> Truths:
        """Return which events pass a test."""


_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv,
}  # fmt: skip
_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq, "!=": operator.ne,
}  # fmt: skip


def numbers(node: Node, source: Source) -> Numbers:
    """Return the values of a number's tree. What is not finite, as after a division by zero, is undefined."""
    match node:
        case Number(value):
            return np.array([value])
        case Statistic():
            return source.numbers(node)
        case Negative(operand):
            return -numbers(operand, source)
        case Arithmetic(sign, left, right):
            with np.errstate(all="ignore"):
                found = _ARITHMETIC[sign](numbers(left, source), numbers(right, source))
            return np.where(np.isfinite(found), found, np.nan)
    raise TypeError(f"{type(node).__name__} is no number")


def truths(node: Node, source: Source) -> Truths:
    """Return the truths of a condition's tree."""
    match node:
        case EventTest():
            return source.truths(node)
        case Comparison(sign, left, right):
            one, other = numbers(left, source), numbers(right, source)
            known = np.where(_COMPARISONS[sign](one, other), TRUE, FALSE)
            return np.where(np.isnan(one) | np.isnan(other), UNKNOWN, known).astype(np.int8)
        case Not(operand):
            return TRUE - truths(operand, source)
        case Junction(both, operands):
            choose = np.minimum if both else np.maximum
            found = truths(operands[0], source)
            for operand in operands[1:]:
                found = choose(found, truths(operand, source))
            return found
    raise TypeError(f"{type(node).__name__} is no condition")


def leaves(node: Node) -> Iterator[Statistic | EventTest]:
    """Yield the statistics and event tests of a tree, from left to right."""
    match node:
        case Statistic() | EventTest():
            yield node
        case Negative(operand) | Not(operand):
            yield from leaves(operand)
        case Arithmetic(_, left, right) | Comparison(_, left, right):
            yield from leaves(left)
            yield from leaves(right)
        case Junction(_, operands):
            for operand in operands:
                yield from leaves(operand)


class Absent:
    """A row without events."""

    def numbers(self, statistic: Statistic) -> Numbers:
        return np.array([statistic.if_absent])

    def truths(self, test: EventTest) -> Truths:
        raise TypeError("an event rule has no rows")
