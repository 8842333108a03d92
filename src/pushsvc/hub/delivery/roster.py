"""The members of a channel in sending order, and the descriptors of those that a pass may send to unseen."""

from array import array
from typing import Generic, Protocol, TypeVar


class Member(Protocol):
    """``position`` is the index in the roster while the member is caught up, else -1; ``fd`` its socket, or -1."""

    fd: int
    position: int
    closed: bool


M = TypeVar("M", bound=Member)


class Roster(Generic[M]):
    """``descriptors`` holds the socket of each caught-up member at the member's index, and -1 for all others.

    A caught-up member has every chunk that a pass has brought to its index, and can be sent the next one. A pass reads
    the descriptors alone: they are adjacent in memory, while members are scattered, and finding a member takes longer
    than sending to it. ``position`` is the index that the current pass has reached.
    """

    __slots__ = ("_closed", "descriptors", "members", "position")

    def __init__(self) -> None:
        self.members: list[M] = []
        self.descriptors = array("i")
        self.position = 0
        self._closed = 0  # closed members that are still listed

    @property
    def is_empty(self) -> bool:
        """True when every member is closed."""
        return self._closed >= len(self.members)

    @property
    def count(self) -> int:
        """Return the number of members that are not closed."""
        return len(self.members) - self._closed

    def add(self, member: M) -> None:
        self.members.append(member)
        self.descriptors.append(-1)

    def mark_caught_up(self, member: M, position: int) -> None:
        """Let passes send to a member unseen, if it has a descriptor."""
        if member.fd >= 0:
            self.descriptors[position] = member.fd
            member.position = position

    def mark_behind(self, member: M) -> None:
        """Let passes look at a member before they send to it."""
        self.descriptors[member.position] = -1
        member.position = -1

    def note_closed(self, *, in_pass: bool) -> None:
        """Count a closed member. It stays listed for now: indexes must not move during a pass."""
        self._closed += 1
        if not in_pass and self._closed > 64 + len(self.members) // 4:
            self.compact()

    def compact(self) -> None:
        """Remove closed members, if they are many or all."""
        if self._closed and (self._closed > 64 or self._closed >= len(self.members) // 4):
            self.members = [member for member in self.members if not member.closed]
            self.descriptors = array("i", [-1]) * len(self.members)
            for position, member in enumerate(self.members):
                if member.position >= 0:
                    self.mark_caught_up(member, position)
            self._closed = 0
