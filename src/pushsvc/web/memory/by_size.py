"""Finds one of the largest of many items without a search."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class BySize(Generic[T]):
    """Items in classes by the length of their size in bits. Items of the size 0 are not kept."""

    __slots__ = ("_classes",)

    def __init__(self) -> None:
        self._classes: dict[int, dict[T, None]] = {}

    def move(self, item: T, before: int, after: int) -> None:
        """Note that the size of an item changes from ``before`` to ``after``."""
        old, new = before.bit_length(), after.bit_length()
        if old == new:
            return
        if old:
            members = self._classes[old]
            del members[item]
            if not members:
                del self._classes[old]
        if new:
            self._classes.setdefault(new, {})[item] = None

    def largest(self) -> T | None:
        """Return an item that has at least half of the largest size: the one that has been in its class for the
        longest time. None if there are no items."""
        return next(iter(self._classes[max(self._classes)])) if self._classes else None
