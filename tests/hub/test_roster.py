"""Which members a pass may send to unseen."""

import pytest

from pushsvc.hub.delivery.roster import Roster


class Member:
    def __init__(self, fd):
        self.fd = fd
        self.position = -1
        self.closed = False


@pytest.fixture
def members():
    return [Member(fd) for fd in range(10, 15)]


@pytest.fixture
def roster(members):
    made = Roster()
    for position, member in enumerate(members):
        made.add(member)
        made.mark_caught_up(member, position)
    return made


def test_new_member_is_behind(members, roster):
    late = Member(15)
    roster.add(late)
    assert list(roster.descriptors) == [10, 11, 12, 13, 14, -1]
    assert late.position == -1


def test_member_that_falls_behind_is_not_sent_to(members, roster):
    roster.mark_behind(members[2])
    assert list(roster.descriptors) == [10, 11, -1, 13, 14]
    assert members[2].position == -1


def test_member_without_a_descriptor_is_never_caught_up(members, roster):
    secure = Member(-1)
    roster.add(secure)
    roster.mark_caught_up(secure, 5)
    assert secure.position == -1


def test_closed_members_are_removed_after_a_pass(members, roster):
    for member in members[1:3]:
        roster.mark_behind(member)
        member.closed = True
        roster.note_closed(in_pass=True)
    assert len(roster.members) == 5, "indexes do not move during a pass"
    roster.compact()
    assert roster.members == [members[0], members[3], members[4]]
    assert list(roster.descriptors) == [10, 13, 14]
    assert [member.position for member in roster.members] == [0, 1, 2]


def test_roster_of_closed_members_is_empty(members, roster):
    for member in members:
        assert not roster.is_empty
        roster.mark_behind(member)
        member.closed = True
        roster.note_closed(in_pass=True)
    assert roster.is_empty
