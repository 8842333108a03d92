"""A sharded topic: the processes of its shards, or of its owner, are killed or stopped while events arrive."""

import logging
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from pushsvc.event import Event
from pushsvc.settings import TopicRules, TopicSettings
from pushsvc.worker.engine import ShardLost
from pushsvc.worker.shards.pool import ShardHandle
from support.metrics import metric
from support.owner import Owner, neighbours
from support.processes import children, needs_proc
from support.producers import BatchProducer
from support.reference.numbers import assert_same
from support.stack import Table
from support.waiting import until

pytestmark = needs_proc

RULES = TopicRules([("hot", TopicSettings(parts=3, key=("key", "city")))])
WHOLE = TopicSettings(key=("key", "city"))
HOT, TWIN = "hot", "twin"
ALL = 10**9
"""Quantiles are equal up to this number of values: both sides count the same buckets."""


def events_of(post):
    """Return events of many keys: sums are exact in any order."""
    return [Event(key=f"k{n % 7}", data={"city": f"c{n % 5}", "x": (post * n % 64) / 8}) for n in range(40)]


def shards_of(worker):
    return [shard for partition in worker.partitions.values() for shard in partition.topics["hot"].engine.engine.shards]


def kill(shard):
    """Kill a shard and wait until it has ended."""
    os.kill(shard.pid, signal.SIGKILL)
    until(lambda: not shard.running)


@pytest.fixture
def owner(broker):
    broker.check_layout()
    broker.open_partitions()
    owners = [Owner(broker, ["hot", *neighbours("hot", 1)], RULES)]
    owners[0].successors = owners
    yield owners[0]
    for one in owners:
        for number in list(one.worker.partitions):
            one.worker.drop(number)


def publish(owner, first, count):
    for post in range(first, first + count):
        owner.publish_all("hot", events_of(post))
    owner.publish(owner.topics[1], x=first)
    owner.step()


def rows_by_name(owner, rules=None):
    """Return the rows of a new owner that read the whole log."""
    successor = Owner(owner.broker, owner.topics, rules or owner.rules)
    owner.successors.append(successor)
    successor.step()
    frame = successor.frames("hot")[-1].frame
    place = frame["columns"].index("by")
    return frame["offset"], {(row[0], row[1], row[place]): row[2:place] for row in frame["data"]}


def assert_as_whole(owner):
    """The shards have the rows of one engine over the same log, bit for bit."""
    (offset, sharded), (whole_offset, whole) = rows_by_name(owner), rows_by_name(owner, TopicRules(default=WHOLE))
    assert offset == whole_offset
    assert_same(sharded, whole, exact=ALL)


def test_killed_shards_are_restarted_and_count_every_event_once(owner):
    publish(owner, 0, 5)
    assert owner.totals("hot") == (200, 200)
    before = metric("pushsvc_parts_lost_total")
    first, *others = shards_of(owner.worker)
    os.kill(first.pid, signal.SIGKILL)
    publish(owner, 5, 5)
    owner.step()
    assert metric("pushsvc_parts_lost_total") == before + 1
    assert owner.totals("hot") == (400, 400)
    assert owner.totals(owner.topics[1]) == (2, 2)
    assert not {shard.pid for shard in [first, *others]} & {shard.pid for shard in shards_of(owner.worker)}
    assert not any(shard.running for shard in others), "the other shards have ended"
    assert_as_whole(owner)


@pytest.mark.parametrize("when", ["polled", "last"])
def test_a_shard_lost_during_a_checkpoint_is_restarted_without_an_error(owner, caplog, when):
    """A shard's process may end at any moment, also while a checkpoint is taken. The partition is restored from the
    last checkpoint and the log; the loss is counted and logged as a warning."""
    publish(owner, 0, 3)
    owner.take_checkpoint()
    publish(owner, 3, 2)
    lost, failed = metric("pushsvc_parts_lost_total"), metric("pushsvc_checkpoints_failed_total")
    kill(shards_of(owner.worker)[1])
    for name in owner.topics:  # the hot topic most needs a checkpoint
        owner.partition.topics[name].engine.unsaved.spent = 1.0 if name == "hot" else 0.5
    written = metric("pushsvc_checkpoints_written_total")
    if when == "polled":
        owner.take_checkpoint()
    else:
        owner.worker.checkpointer.finish(list(owner.worker.partitions.values()))
        assert metric("pushsvc_checkpoints_written_total") > written, "the other engines are saved"
    assert metric("pushsvc_parts_lost_total") == lost + 1
    assert metric("pushsvc_checkpoints_failed_total") == failed
    assert [record.levelname for record in caplog.records if record.levelno > logging.INFO] == ["WARNING"]
    owner.step()
    publish(owner, 5, 2)
    assert owner.totals("hot") == (280, 280)
    assert metric("pushsvc_parts_lost_total") == lost + 1
    assert_as_whole(owner)


def test_a_shard_that_cannot_be_started_is_lost(monkeypatch):
    def fail(*_, **__):
        raise OSError("made to fail")

    monkeypatch.setattr(subprocess, "Popen", fail)
    with pytest.raises(ShardLost, match="made to fail"):
        ShardHandle(0, 1.0)


def test_a_shard_that_does_not_answer_is_given_up(owner):
    publish(owner, 0, 3)
    stopped = shards_of(owner.worker)[1]
    stopped.set_timeout(0.1)
    os.kill(stopped.pid, signal.SIGSTOP)
    publish(owner, 3, 3)
    owner.step()
    assert owner.totals("hot") == (240, 240)
    assert not stopped.running


def test_a_successor_restores_the_checkpoint_of_all_shards(owner):
    publish(owner, 0, 5)
    owner.take_checkpoint()
    publish(owner, 5, 2)
    loaded, entries = metric("pushsvc_checkpoints_loaded_total"), metric("pushsvc_entries_read_total")
    successor = Owner(owner.broker, owner.topics, owner.rules)
    owner.successors.append(successor)
    successor.step()
    assert metric("pushsvc_checkpoints_loaded_total") > loaded
    assert metric("pushsvc_entries_read_total") - entries <= 2 + 2
    assert successor.totals("hot") == (280, 280)
    assert_as_whole(owner)


def test_offsets_of_frames_never_go_back_when_shards_are_lost(owner):
    for post in range(4):
        publish(owner, 5 * post, 5)
        os.kill(shards_of(owner.worker)[post % 3].pid, signal.SIGKILL)
    publish(owner, 20, 1)
    owner.step()
    entries = owner.frames("hot")
    assert [entry.source for entry in entries] == sorted(entry.source for entry in entries)
    assert entries[-1].source == 840


# -- the whole system


def batch(number):
    """Return events with their time, so that both topics count them at the same time."""
    now = int(time.time() * 1000)
    return [{"id": f"{number}/{n}", "time": now, "key": f"k{n % 7}", "x": (number * n % 64) / 8} for n in range(20)]


def children_of(stack, parent):
    """Return the aggregator of a supervisor, and the shards of that aggregator."""

    def both():
        for aggregator in children(parent, "_aggregator"):
            if len(shards := children(aggregator, "_shard")) == 2:
                return aggregator, shards
        return None

    return until(both)


def test_a_sharded_topic_has_the_statistics_of_a_whole_one(stack):
    stack.configure('[topics.hot]\nparts = 2\nwindows = ["15m", "1h"]\n[topics.twin]\nwindows = ["15m", "1h"]\n')
    parent = stack.start("aggregator", "aggregator").pid
    stack.start_web()
    table = Table()
    with BatchProducer(stack, [HOT, TWIN], batch) as producer, stack.stream(f"/v1/topics/{HOT}/stats") as stream:

        def go_on():
            posts = producer.posts
            until(lambda: producer.posts > posts + 20)
            wanted = 20 * (posts + 1)
            while table.offset < wanted:
                table.apply(*stream.frame())

        go_on()
        table.frames.clear()
        aggregator, shards = children_of(stack, parent)
        os.kill(shards[1], signal.SIGKILL)
        go_on()
        aggregator, shards = children_of(stack, parent)
        os.kill(aggregator, signal.SIGKILL)
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in shards))
        go_on()
        children_of(stack, parent)
        producer.stop()
        while table.offset < 20 * producer.posts:
            table.apply(*stream.frame())
    assert "reset" not in table.frames
    assert table.frames.count("snapshot") <= 2, "one after each kill"
    frames = [
        until(lambda topic=topic: (s := stack.stats(topic))["offset"] == 20 * producer.posts and s)
        for topic in (HOT, TWIN)
    ]
    sharded, whole = ({(row[0], row[1]): row[2:] for row in frame["data"]} for frame in frames)
    assert_same(sharded, whole, exact=ALL)
    assert {name: row[2:] for name, row in table.live().items()} == sharded
    _, shards = children_of(stack, parent)
    stack.stop("aggregator")
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in shards))
