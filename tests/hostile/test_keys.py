"""What the keys and fields of many topics may take of an aggregator."""

from __future__ import annotations

import pytest

from pushsvc.broker.broker import Broker
from pushsvc.event import Event, Limits
from pushsvc.settings import TopicRules
from pushsvc.worker.policy import WorkerPolicy
from pushsvc.worker.worker import AggregatorWorker
from support.owner import EAGER, Owner, lease, neighbours
from support.waiting import until

CELLS = 30_000
KEYS = 1_000
FIELDS = 8
EVENTS = [Event(key=f"k{key}", data={f"f{field}": 1 for field in range(FIELDS)}) for key in range(KEYS)]


@pytest.fixture
def owner(broker: Broker) -> Owner:
    """An owner of six topics that may hold 30,000 cells."""
    broker.check_layout()
    return Owner(broker, ["t", *neighbours("t", 5)])


def restart(owner: Owner, cells: int, partition_cells: int | None = None) -> AggregatorWorker:
    """Replace the worker, as after a kill, by one with room for so many cells."""
    for partition in owner.worker.partitions.values():
        partition.end()
    worker = AggregatorWorker(
        owner.broker, owner.rules, Limits(statistics_cells=cells, partition_cells=partition_cells or cells),
        WorkerPolicy(retry_pause=0.0, quiet_pause=0.0, rebuilt_entries=0, checkpoints=EAGER),
    )  # fmt: skip
    owner.worker = worker
    worker.adopt(owner.number, lease(owner.broker, owner.number))
    return worker


def count_all(owner: Owner) -> int:
    """Count everything; return the rows that the tables of all topics have."""
    topics = owner.partition.topics

    def done() -> bool:
        owner.step(1)
        return sum(topic.counts.offset for topic in owner.partition.topics.values()) == KEYS * len(owner.topics)

    until(done)
    topics = owner.partition.topics
    return sum(topic.counts.table.held for topic in topics.values())


def test_keys_of_a_partition_are_bounded(owner: Owner) -> None:
    """The process had room for more, which is that of its other partitions."""
    worker = restart(owner, 10 * CELLS, CELLS)
    for topic in owner.topics:
        owner.publish_all(topic, EVENTS)
    rows = count_all(owner)
    cells = worker.room.cells_of(owner.number)
    assert rows * len(owner.rules.settings_of("t").windows) == cells.held == worker.room.cells.held <= CELLS
    assert worker.room.cells.refused == cells.refused > 0
    for partition in worker.partitions.values():
        partition.end()
    assert (worker.room.cells.held, worker.room.cells.pledged) == (0, 0)


def test_keys_of_all_topics_together_are_bounded_and_totals_are_exact(owner: Owner) -> None:
    worker = restart(owner, CELLS)
    for topic in owner.topics:
        owner.publish_all(topic, EVENTS)
    rows = count_all(owner)
    windows = len(owner.rules.settings_of("t").windows)
    assert rows * windows == worker.room.cells.held <= CELLS
    assert worker.room.cells.refused > 0
    for topic in owner.topics:
        frame = owner.partition.topics[topic].engine.engine.snapshot(topic, "1m").to_json(0)
        assert b'"full":true' in frame
        assert f"[null,null,{KEYS},".encode() in frame
        assert b'["__other__",null,' in frame
    owner.worker.drop(owner.number)
    assert worker.room.cells.held == worker.room.cells.pledged == 0


def test_a_restart_does_not_restore_more_than_it_has_room_for(owner: Owner) -> None:
    """The checkpoint was taken with more room: it is not restored, and the windows are built again from the logs."""
    restart(owner, 1_000_000)
    for topic in owner.topics:
        owner.publish_all(topic, EVENTS)
    assert count_all(owner) > KEYS * FIELDS
    owner.take_checkpoint()
    worker = restart(owner, CELLS)
    rows = count_all(owner)
    assert rows * 3 == worker.room.cells.held <= CELLS
    again = restart(owner, CELLS * 100)
    assert count_all(owner) > KEYS * FIELDS
    assert again.room.cells.refused == 0


def test_small_topics_that_are_asked_for_wait_while_too_many_are_open(broker: Broker) -> None:
    broker.check_layout()
    topics = ["t", *neighbours("t", 5)]
    owner = Owner(broker, topics, TopicRules(), unwanted=True)
    for partition in owner.worker.partitions.values():
        partition.end()
    policy = WorkerPolicy(retry_pause=0.0, quiet_pause=0.0, rebuilt_entries=100)
    owner.worker = worker = AggregatorWorker(broker, owner.rules, Limits(opened_topics=2), policy)
    worker.adopt(owner.number, lease(broker, owner.number))
    for topic in topics:
        owner.publish(topic, n=1)
    owner.step()
    assert not owner.partition.topics
    owner.want()
    owner.partition.look_everywhere()
    owner.step()
    assert len(owner.partition.topics) == 2
    assert len(owner.partition.waiting) == 4
    for name in list(owner.partition.topics):
        owner.partition.forget(name)
    worker.room.review()
    owner.worker.step()
    assert len(owner.partition.topics) == 2
