"""Collections that mostly have one member, and flags that are mostly set."""

import gevent
import pytest

from pushsvc.hub.feed.few import excluding, including
from pushsvc.hub.groups.latch import Latch


@pytest.mark.parametrize("number", [0, 1, 4, 5, 30])
def test_members_are_distinct_and_in_order(number):
    members = ()
    for one in [*range(number), *range(number)]:
        members = including(members, one)
    assert list(members) == list(range(number))
    for one in (7, 0, 99):
        members = excluding(members, one)
        assert one not in members
    assert list(members) == [n for n in range(number) if n not in (7, 0)]


def test_latch_wakes_all_that_wait_and_may_be_cleared_at_once():
    latch = Latch()
    waiting = [gevent.spawn(latch.wait, 30) for _ in range(3)]
    gevent.sleep(0)
    latch.set()
    latch.clear()
    assert [one.get(timeout=30) for one in waiting] == [True] * 3
    assert not latch.is_set()
    assert not latch.wait(0)
    latch.set()
    assert latch.wait(0)
