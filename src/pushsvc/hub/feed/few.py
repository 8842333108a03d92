"""Collections that mostly have one member: a dictionary of one entry takes 224 bytes, a tuple 48."""

from typing import TypeVar

T = TypeVar("T")

Few = tuple[T, ...] | dict[T, None]
"""Distinct members in the order of their coming: a tuple while they are few, then a dictionary."""

_MOST = 4


def including(members: Few[T], one: T) -> Few[T]:
    """Return members with one more."""
    if isinstance(members, dict):
        members[one] = None
        return members
    if one in members:
        return members
    return (*members, one) if len(members) < _MOST else dict.fromkeys((*members, one))


def excluding(members: Few[T], one: T) -> Few[T]:
    """Return members without one."""
    if isinstance(members, dict):
        members.pop(one, None)
        return members
    return tuple(member for member in members if member != one)
