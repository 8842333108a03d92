"""A topic in shards, each counted by a process: shards and their aggregator are killed or stopped during publishing."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from pushsvc.event import Event
from pushsvc.settings import TopicRules, TopicSettings
from support.accounts.numbers import assert_same
from support.owner import Owner, counted, neighbours
from support.stack import Table
from support.waiting import until

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="children are found through /proc")

RULES = TopicRules([("hot", TopicSettings(parts=3, key=("key", "city")))])
UNSPLIT = TopicSettings(key=("key", "city"))
HOT, TWIN = "hot", "twin"
ALL = 10**9
"""Quantiles must be equal up to this many values: both sides count the same buckets."""


def events_of(post):
    """Return events of many keys: sums are exact in any order."""
    return [Event(key=f"k{n % 7}", data={"city": f"c{n % 5}", "x": (post * n % 64) / 8}) for n in range(40)]


def processes_of(worker):
    return [part for partition in worker._partitions.values() for part in partition.topics["hot"].aggregate._parts]


@pytest.fixture
def owner(broker, monkeypatch):
    monkeypatch.setattr("pushsvc.worker.worker._PAUSE", 0)
    monkeypatch.setattr("pushsvc.worker.checkpoints.INTERVAL", 0)
    monkeypatch.setattr("pushsvc.worker.checkpoints.SHARE", float("inf"))
    monkeypatch.setattr("pushsvc.worker.checkpoints.WORTH", 0)
    broker.check_layout()
    broker.open_partitions()
    owners = [Owner(broker, ["hot", *neighbours("hot", 1)], RULES)]
    owners[0].successors = owners
    yield owners[0]
    for one in owners:
        for number in list(one.worker._partitions):
            one.worker._drop(number)


def publish(owner, first, count):
    for post in range(first, first + count):
        owner.publish_all("hot", events_of(post))
    owner.publish(owner.topics[1], x=first)
    owner.turns()


def rows_by_name(owner, rules=None):
    """Return the offset and the rows that a new owner computes from the whole log."""
    successor = Owner(owner.broker, owner.topics, rules or owner.rules)
    owner.successors.append(successor)
    successor.turns()
    frame = successor.frames("hot")[-1].frame
    place = frame["columns"].index("by")
    return frame["offset"], {(row[0], row[1], row[place]): row[2:place] for row in frame["data"]}


def assert_as_unsplit(owner):
    """Assert that the shards compute what one engine computes from the log: bit for bit, but the last bits of std."""
    (offset, split), (whole_offset, whole) = rows_by_name(owner), rows_by_name(owner, TopicRules(default=UNSPLIT))
    assert offset == whole_offset
    assert_same(split, whole, exact=ALL)


def test_killed_shards_restart_and_count_every_event_once(owner):
    publish(owner, 0, 5)
    assert owner.told("hot") == (200, 200)
    before = counted("pushsvc_parts_lost_total")
    first, *others = processes_of(owner.worker)
    os.kill(first.pid, signal.SIGKILL)
    publish(owner, 5, 5)
    owner.turns()
    assert counted("pushsvc_parts_lost_total") == before + 1
    assert owner.told("hot") == (400, 400)
    assert owner.told(owner.topics[1]) == (2, 2)
    assert not {part.pid for part in [first, *others]} & {part.pid for part in processes_of(owner.worker)}
    assert all(part._process.poll() is not None for part in others), "the other shards have ended"
    assert_as_unsplit(owner)


def test_unresponsive_shard_is_killed(owner):
    publish(owner, 0, 3)
    stopped = processes_of(owner.worker)[1]
    stopped._socket.settimeout(0.1)  # in place of PATIENCE
    os.kill(stopped.pid, signal.SIGSTOP)
    publish(owner, 3, 3)
    owner.turns()
    assert owner.told("hot") == (240, 240)
    assert stopped._process.poll() is not None


def test_successor_resumes_from_the_checkpoint_of_all_shards(owner):
    publish(owner, 0, 5)
    owner.take_checkpoint()
    publish(owner, 5, 2)
    loaded, entries = counted("pushsvc_checkpoints_loaded_total"), counted("pushsvc_entries_read_total")
    successor = Owner(owner.broker, owner.topics, owner.rules)
    owner.successors.append(successor)
    successor.turns()
    assert counted("pushsvc_checkpoints_loaded_total") > loaded
    assert counted("pushsvc_entries_read_total") - entries <= 2 + 2
    assert successor.told("hot") == (280, 280)
    assert_as_unsplit(owner)


def test_offsets_of_frames_never_decrease_when_shards_die(owner):
    for post in range(4):
        publish(owner, 5 * post, 5)
        os.kill(processes_of(owner.worker)[post % 3].pid, signal.SIGKILL)
    publish(owner, 20, 1)
    owner.turns()
    entries = owner.frames("hot")
    assert [entry.source for entry in entries] == sorted(entry.source for entry in entries)
    assert entries[-1].source == 840


# The whole system


class Producer:
    """Posts the same events with the same times to a sharded and to a whole topic; repeats a request after a 503."""

    def __init__(self, stack):
        self._stack = stack
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.posts = 0

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stopped.set()
        self._thread.join()

    def _run(self):
        while not self._stopped.is_set():
            now = int(time.time() * 1000)
            events = [
                {"id": f"{self.posts}/{n}", "time": now, "key": f"k{n % 7}", "x": (self.posts * n % 64) / 8}
                for n in range(20)
            ]
            for topic in (HOT, TWIN):
                while self._stack.post(topic, events).status != 202:
                    pass
            self.posts += 1


def children(parent, role):
    found = []
    for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if role in Path(f"/proc/{pid}/cmdline").read_text().split("\0"):
            found.append(int(pid))
    return found


def parts_of(stack, parent):
    """Return the aggregator of a supervisor and the two shards of this aggregator."""

    def both():
        for aggregator in children(parent, "_aggregator"):
            if len(parts := children(aggregator, "_part")) == 2:
                return aggregator, parts
        return None

    return until(both)


def test_sharded_topic_has_the_statistics_of_a_whole_topic_through_kills(stack):
    stack.configure('[topics.hot]\nparts = 2\nwindows = ["15m", "1h"]\n[topics.twin]\nwindows = ["15m", "1h"]\n')
    parent = stack.start("aggregator", "aggregator").pid
    stack.start_web()
    table = Table()
    with Producer(stack) as producer, stack.stream(f"/v1/topics/{HOT}/stats") as stream:

        def go_on():
            posts = producer.posts
            until(lambda: producer.posts > posts + 20)
            wanted = 20 * (posts + 1)
            while table.offset < wanted:
                table.apply(*stream.frame())

        go_on()
        table.frames.clear()
        aggregator, parts = parts_of(stack, parent)
        os.kill(parts[1], signal.SIGKILL)
        go_on()
        aggregator, parts = parts_of(stack, parent)
        os.kill(aggregator, signal.SIGKILL)
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in parts))
        go_on()
        parts_of(stack, parent)
        producer.__exit__()
        while table.offset < 20 * producer.posts:
            table.apply(*stream.frame())
    assert "reset" not in table.frames
    assert table.frames.count("snapshot") <= 2, "one after each kill"
    frames = [
        until(lambda topic=topic: (s := stack.stats(topic))["offset"] == 20 * producer.posts and s)
        for topic in (HOT, TWIN)
    ]
    split, whole = ({(row[0], row[1]): row[2:] for row in frame["data"]} for frame in frames)
    assert_same(split, whole, exact=ALL)
    assert {name: row[2:] for name, row in table.live().items()} == split
    _, parts = parts_of(stack, parent)
    stack.stop("aggregator")
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in parts))
