"""Merges the results of partitions as they come, in an order that does not depend on when they come."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Generic, TypeVar

T = TypeVar("T")


class OrderedMerge(Generic[T]):
    """A binary tree over the numbers of partitions: two neighbours merge as soon as both are there.

    So the result has the same bits whatever finished first, and at most about twice the logarithm of their number are
    held. A partition without a result is passed over.
    """

    def __init__(self, merge: Callable[[T, T], T]) -> None:
        self._merge = merge
        self._nodes: dict[tuple[int, int], tuple[T, ...]] = {}  # by level and number: a result, or none

    def add(self, number: int, *result: T) -> None:
        """Add the result of a partition; without one, the partition is passed over."""
        level, node = 0, result
        while (neighbour := (level, number ^ 1)) in self._nodes:
            other = self._nodes.pop(neighbour)
            node = self._join(other, node) if number % 2 else self._join(node, other)
            level, number = level + 1, number // 2
        self._nodes[level, number] = node

    def _join(self, one: tuple[T, ...], other: tuple[T, ...]) -> tuple[T, ...]:
        return (self._merge(one[0], other[0]),) if one and other else one or other

    def result(self) -> tuple[T, ...]:
        """Return the merged result of all that was added, if anything was."""
        ordered = sorted(self._nodes.items(), key=lambda item: item[0][1] << item[0][0])
        return reduce(self._join, (node for _, node in ordered), ())
