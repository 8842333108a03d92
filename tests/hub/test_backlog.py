import pytest

from pushsvc.hub.delivery import backlog as module
from pushsvc.hub.delivery.backlog import Tape


@pytest.fixture
def tape():
    made = Tape("0")
    for number in range(1, 6):
        made.append(b"%d" % number, 1, str(number), 0.0)
    return made


def after(chunk):
    """Return what follows a chunk."""
    found = []
    while (chunk := chunk.next) is not None:
        found.append(chunk.data)
    return found


def test_nothing_is_dropped_before_everybody_has_it(tape):
    begin = tape.base
    tape.trim(behind=False)
    assert after(begin) == [b"1", b"2", b"3", b"4", b"5"]


def test_what_everybody_has_goes_unless_somebody_is_behind(tape):
    begin = tape.base
    tape.front = begin.next.next
    tape.trim(behind=True)
    assert not begin.lost
    tape.trim(behind=False)
    assert begin.lost
    assert after(begin) == []
    assert after(tape.front) == [b"3", b"4", b"5"]
    assert tape.size == 3


def test_the_bound_holds_however_many_are_behind(tape, monkeypatch):
    monkeypatch.setattr(module, "BACKLOG_BYTES", 2)
    begin, third = tape.base, tape.base.next.next.next
    tape.front = tape.end
    tape.trim(behind=True)
    assert begin.lost
    assert not third.lost
    assert after(third) == [b"4", b"5"]
    assert tape.size == 2
