"""Which logs of a partition changed, and when: asked by followers that may have missed a notification."""

import pytest

from pushsvc.broker.broker import StatisticsWrite
from pushsvc.broker.keys import Log
from pushsvc.broker.log import FrameKind
from pushsvc.event import Event
from pushsvc.settings import TopicSettings

SETTINGS = TopicSettings()
NAMES = [name for name in (f"user.{number}" for number in range(1_000)) if Log(name).partition == 5]
EVENT = [Event(data={"n": 1})]
WINDOW = Log(NAMES[0], "last 10")


def test_publishing_writing_frames_and_deleting_change_logs(broker):
    assert broker.changed(5, 0) == (broker.changed(5, 7))
    for name in NAMES[:3]:
        broker.publish(name, EVENT * 2, SETTINGS)
    found = broker.changed(5, 0)
    assert (found.sequences, found.through, found.more) == ({NAMES[0]: 2, NAMES[1]: 4, NAMES[2]: 6}, 6, False)
    assert found.epoch == broker.read(5, {}).epoch
    fence = broker.lease([5], "me", 10_000)[5]
    broker.append_statistics([StatisticsWrite(WINDOW, FrameKind.SNAPSHOT, 1, b"{}")], fence)
    assert broker.changed(5, 6).sequences == {WINDOW.name: 7}
    broker.publish(NAMES[1], EVENT, SETTINGS)
    assert broker.changed(5, 6).sequences == {WINDOW.name: 7, NAMES[1]: 8}
    broker.delete(NAMES[0])
    found = broker.changed(5, 7)
    assert found.sequences == {NAMES[1]: 8, NAMES[0]: 9, WINDOW.name: 9}
    assert broker.changed(5, found.through).sequences == {}


def test_the_last_change_of_a_log_is_that_of_its_last_entry(broker):
    for name in NAMES[:2]:
        broker.publish(name, EVENT * 3, SETTINGS)
    read = broker.read(5, {Log(name): 0 for name in NAMES[:2]})
    newest = {log.name: found.entries[-1].sequence for log, found in read.logs.items()}
    assert broker.changed(5, 0).sequences == newest


@pytest.mark.parametrize("piece", [4, 5])
def test_changes_come_in_pieces_that_never_part_a_deleted_topic(broker, piece):
    for name in NAMES[:6]:
        broker.publish(name, EVENT, SETTINGS)
    fence = broker.lease([5], "me", 10_000)[5]
    windows = [Log(NAMES[2], window) for window in ("1m", "5m")]
    broker.append_statistics([StatisticsWrite(log, FrameKind.SNAPSHOT, 1, b"{}") for log in windows], fence)
    broker.delete(NAMES[2])
    broker.publish(NAMES[0], EVENT, SETTINGS)
    found, after, more = {}, 0, True
    while more:
        part = broker.changed(5, after, limit=piece)
        assert len(part.sequences) <= piece
        assert not found.keys() & part.sequences.keys()
        found |= part.sequences
        after, more = part.through, part.more
    assert list(found) == [NAMES[1], *NAMES[3:6], NAMES[2], *sorted(log.name for log in windows), NAMES[0]]
    assert after == max(found.values())
