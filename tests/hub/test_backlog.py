import pytest

from pushsvc.hub.delivery.backlog import Backlog
from pushsvc.hub.limits import FanoutLimits


def filled(limits=None):
    backlog = Backlog("0", limits or FanoutLimits())
    for number in range(1, 6):
        backlog.append(b"%d" % number, 1, str(number), 0.0)
    return backlog


@pytest.fixture
def backlog():
    return filled()


def after(chunk):
    """Return the data after a chunk."""
    found = []
    while (chunk := chunk.next) is not None:
        found.append(chunk.data)
    return found


def test_chunk_that_a_connection_still_needs_is_kept(backlog):
    begin = backlog.base
    backlog.trim(behind=False)
    assert after(begin) == [b"1", b"2", b"3", b"4", b"5"]


def test_chunks_that_every_connection_has_are_dropped_unless_one_is_behind(backlog):
    begin = backlog.base
    backlog.front = begin.next.next
    backlog.trim(behind=True)
    assert not begin.lost
    backlog.trim(behind=False)
    assert begin.lost
    assert after(begin) == []
    assert after(backlog.front) == [b"3", b"4", b"5"]
    assert backlog.size == 3


def test_backlog_is_bounded_while_connections_are_behind():
    backlog = filled(FanoutLimits(backlog_bytes=2))
    begin, third = backlog.base, backlog.base.next.next.next
    backlog.front = backlog.end
    backlog.trim(behind=True)
    assert begin.lost
    assert not third.lost
    assert after(third) == [b"4", b"5"]
    assert backlog.size == 2
