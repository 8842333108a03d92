"""Locks that are made at their first use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Lazily(Generic[T]):
    """An attribute that is made at its first use in a process, after ``forget`` anew. Threads may share it.

    gunicorn with ``--preload`` forks its workers before gevent patches them: a lock of before would stop all greenlets.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> T:
        # Python asks only while the instance has no attribute of this name.
        made: T = instance.__dict__.setdefault(self._name, self._make())
        return made


def forget(instance: object, name: str) -> None:
    """Let an attribute be made anew."""
    instance.__dict__.pop(name, None)
