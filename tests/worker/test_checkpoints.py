"""Checkpoints over a real Redis: a successor restores them and reads the log after them, or reads the whole log."""

import random
from contextlib import closing
from dataclasses import replace

import msgspec
import orjson
import pytest

from pushsvc.aggregate.aggregate import Aggregate
from pushsvc.broker.broker import Broker
from pushsvc.broker.keys import Log
from pushsvc.broker.script import CHECKPOINT_COMMIT, LATE, STATISTICS
from pushsvc.errors import BrokerUnavailable, Fenced
from pushsvc.event import Event
from pushsvc.settings import TopicRules, TopicSettings
from pushsvc.stats.serialize import VERSION
from pushsvc.stats.window import Window
from pushsvc.worker.checkpoints import Checkpointer
from pushsvc.worker.engine import LocalEngine
from pushsvc.worker.partition import OwnedEngine, Unsaved
from pushsvc.worker.policy import CheckpointPolicy
from support.metrics import metric
from support.owner import Owner, lease, neighbours
from support.waiting import until


@pytest.fixture
def owner(broker):
    broker.check_layout()
    broker.open_partitions()
    return Owner(broker, ["good", *neighbours("good", 2)])


def successor(owner, rules=None, **policy):
    """Return the next owner, with the policy of the one before but for some of its checkpoint settings."""
    checkpoints = replace(owner.policy.checkpoints, **policy)
    return Owner(owner.broker, owner.topics, rules or owner.rules, replace(owner.policy, checkpoints=checkpoints))


def publish(owner, count, topic="good"):
    for number in range(count):
        owner.publish(topic, x=number)
    owner.step()


class Counts:
    """What the metrics grew by since this was made."""

    NAMES = ("entries_read", "checkpoints_written", "checkpoints_loaded", "checkpoints_ignored", "checkpoints_failed")

    def __init__(self):
        self.before = {name: metric(f"pushsvc_{name}_total") for name in self.NAMES}

    def __getattr__(self, name):
        return metric(f"pushsvc_{name}_total") - self.before[name]


def stored(owner):
    """Return everything that checkpoints have in Redis, as bytes by key."""
    client = owner.broker.connections
    keys = sorted(client.command("KEYS", f"{owner.broker.keys.prefix}*:checkpoint*"))
    return {key: client.command("DUMP", key) for key in keys}


def raw(owner):
    """Return the pieces of all checkpoints."""
    client = owner.broker.connections
    keys = client.command("KEYS", f"{owner.broker.keys.prefix}*:checkpoint:*")
    return [piece for key in keys for piece in client.command("LRANGE", key, 0, -1)]


# -- restoring


def test_a_successor_reads_only_the_log_after_the_checkpoint(owner):
    publish(owner, 5)
    owner.take_checkpoint()
    publish(owner, 3)
    counts, next_owner, before = Counts(), successor(owner), len(owner.frames("good"))
    next_owner.step()
    assert (counts.checkpoints_loaded, counts.entries_read) == (1, 3)
    assert owner.totals("good") == (8, 8)
    assert [frame.kind for frame in owner.frames("good")[before:]] == ["s"]
    publish(next_owner, 1)
    assert counts.entries_read == 4


def test_a_successor_writes_nothing_before_the_last_frame_and_then_one_snapshot(owner, monkeypatch):
    publish(owner, 2)
    owner.take_checkpoint()
    publish(owner, 6)
    owner.worker.frames.write(owner.partition, ["good"], owner.broker.time() + 60_000)
    assert owner.frames("good")[-1].source == 8
    publish_only = owner.publish
    for number in range(2):
        publish_only("good", x=number)
    read, before = owner.broker.read, len(owner.frames("good"))
    monkeypatch.setattr(owner.broker, "read", lambda number, logs, **how: read(number, logs, budget=1, **how))
    next_owner, written = successor(owner), {}
    for _ in range(12):
        next_owner.step(1)
        written[next_owner.partition.topics["good"].counts.offset] = [
            (frame.kind, frame.source)
            for frame in read(owner.number, {Log("good", "1m"): before}).logs[Log("good", "1m")].entries
        ]
    assert {offset: written[offset] for offset in (3, 4, 5, 6, 7)} == {offset: [] for offset in (3, 4, 5, 6, 7)}
    assert written[8] == [("s", 8)]
    assert written[10][0] == ("s", 8)
    assert {kind for kind, _ in written[10][1:]} <= {"u"}


SETTINGS = {
    "wall": {"windows": ("1m", "15m")},
    "event": {"windows": ("10s", "1m"), "clock": "event"},
    "last": {"windows": ("1m", "last 5", "last 100")},
    "exact": {"windows": ("1m",), "exact": True},
    "values": {"windows": ("1m",), "values": ("c",), "statistics": ("p50", "distinct", "top3", "first", "last")},
    "grouped": {"windows": ("1m",), "key": ("c", "key")},
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_restored_engine_has_the_rows_of_an_engine_rebuilt_from_the_log(owner, kind):
    options = dict(SETTINGS[kind])
    settings = TopicSettings(**options | {"windows": tuple(map(Window.parse, options["windows"]))})
    random_, owner = random.Random(kind), successor(owner, TopicRules(default=settings))
    now = owner.broker.time()

    def some():
        return [
            Event(
                time=now + random_.randrange(-8_000, 1_000) if kind == "event" else None,
                key=random_.choice(["a", "b", None]),
                data={"x": random_.randrange(800) / 8, "c": random_.choice(["red", "green", 3, None])},
            )
            for _ in range(7)
        ]

    for topic in owner.topics * 4:
        owner.publish_all(topic, some())
    owner.step()
    for _ in owner.partition.engines:
        owner.take_checkpoint()
    for topic in owner.topics[:2] * 3:
        owner.publish_all(topic, some())
    restored, counts = successor(owner), Counts()
    restored.step()
    assert counts.entries_read == 6
    assert counts.checkpoints_loaded == (3 if kind == "event" else 1)
    alone = successor(owner)
    alone.partition.rebuild_from_log = True
    alone.step()
    assert counts.entries_read == 6 + 18
    for topic in owner.topics:
        for window in settings.windows:
            ours, theirs = (
                one.partition.topics[topic].engine.engine.snapshot(topic, window.name) for one in (restored, alone)
            )
            assert ours.offset == theirs.offset
            assert [*map(near, rows(ours))] == rows(theirs)


def rows(frame):
    return sorted(orjson.loads(frame.to_json(0))["data"], key=lambda row: repr(row[:4] + row[-1:]))


def near(row):
    """Sums of dyadic values are equal in any order; a deviation may differ in its last digit."""
    return row if row[8] is None else [*row[:8], pytest.approx(row[8], rel=1e-12), *row[9:]]


def test_topics_created_or_deleted_after_the_checkpoint_are_noticed(owner):
    good, kept, gone = owner.topics
    for topic in owner.topics:
        publish(owner, 4, topic)
    owner.take_checkpoint()
    owner.broker.delete(good)
    owner.broker.delete(gone)
    owner.publish(good, x=1)
    owner.publish(kept, x=1)
    owner.topics.append(new := neighbours(good, 3)[2])
    owner.publish(new, x=1)
    counts, next_owner = Counts(), successor(owner)
    next_owner.step()
    assert counts.entries_read == 3
    assert owner.totals(kept) == (5, 5)
    assert owner.totals(good) == (5, 1)
    assert owner.totals(new) == (1, 1)
    assert set(next_owner.partition.topics) == {good, kept, new}


def test_a_topic_recreated_long_after_its_deletion_is_another_topic(owner):
    """The record of a deletion expires after a week; offsets then begin with 1 again."""
    publish(owner, 4)
    owner.take_checkpoint()
    owner.broker.delete("good")
    owner.broker.connections.command("DEL", owner.broker.keys.metadata(Log("good")))
    for _ in range(6):
        owner.publish("good", x=100)
    successor(owner).step()
    *_, last = owner.frames("good")
    sums = {(key, name): total for key, name, _, _, total, *_ in last.frame["data"]}
    assert sums[None, "x"] == 600


def test_a_topic_whose_log_begins_after_the_checkpoint_is_rebuilt_from_the_log(owner):
    """On the event clock a small log may be all that is left; only its events are counted."""
    settings = TopicSettings(windows=(Window.parse("1m"),), clock="event", retention=3)
    owner = successor(owner, TopicRules(default=settings))
    publish(owner, 2)
    owner.take_checkpoint()
    client, log = owner.broker.connections, owner.broker.keys.log(Log("good"))
    for number in range(4):
        owner.publish("good", x=number)
    client.command("XTRIM", log, "MINID", "5-0")
    client.command("HSET", owner.broker.keys.metadata(Log("good")), "first", 5)
    successor(owner).step()
    assert owner.totals("good") == (6, 2)


def test_late_events_are_reported_once(owner):
    def late():
        return int(owner.broker.metadata([Log("good")])[0].get("late", 0))

    old = Event(time=owner.broker.time() - 7_200_000, key="k", data={"x": 1})
    publish(owner, 1)
    owner.publish_all("good", [old])
    owner.step()
    owner.take_checkpoint()  # the late event is counted, and reported with the next frame
    for _ in range(2):
        owner.worker.frames.write(owner.partition, ["good"], owner.broker.time() + 60_000)
        owner = successor(owner)
        owner.step()
        assert late() == 1
    owner.publish_all("good", [old])
    owner.step()
    owner = successor(owner)
    owner.step()
    assert late() == 2


@pytest.mark.parametrize("script", [LATE, STATISTICS], ids=lambda script: script.name)
def test_late_events_are_reported_once_if_the_answer_is_lost(proxy, broker, prefix, script):
    with closing(Broker(proxy.url, prefix)) as through:
        through.check_layout()
        through.open_partitions()
        owner = Owner(through, ["good"])
        publish(owner, 1)
        late = [Event(time=1_000, data={"x": 2})]
        sent = []
        proxy.upward = lambda data: sent.append(script.sha.encode() in data) or data
        proxy.downward = lambda data: None if any(sent) else data
        owner.publish_all("good", late if script is LATE else [*late, Event(key="k", data={"x": 3})])
        until(lambda: owner.step(1) or any(sent))
        proxy.upward = proxy.downward = lambda data: data

        def reported():
            owner.step()
            return int(broker.metadata([Log("good")])[0].get("late", 0))

        assert until(reported) == 1
        owner.publish_all("good", late)
        until(lambda: reported() == 2)
        assert owner.partition.topics["good"].unreported_late == 0


# -- unusable checkpoints


def damage_piece(client, key, pieces):
    piece = bytearray(client.command("LINDEX", pieces, 2))
    piece[100] ^= 1
    client.command("LSET", pieces, 2, bytes(piece))


def lose_piece(client, key, pieces):
    client.command("LTRIM", pieces, 0, -2)


def lose_all(client, key, pieces):
    client.command("DEL", pieces)


def change_header(old, new):
    def change(client, key, pieces):
        ((name, header),) = [client.command("HGETALL", key)]
        assert old in header
        client.command("HSET", key, name, header.replace(old, new))

    return change


@pytest.mark.parametrize(
    "change",
    [
        damage_piece, lose_piece, lose_all, change_header(b'"format":1', b'"format":2'), change_header(b"{", b"["),
        change_header(b'"pieces":', b'"pieces":1'), change_header(b'"place":0', b'"place":1'),
    ],
)  # fmt: skip
def test_a_damaged_checkpoint_is_ignored_and_the_log_is_read(owner, change, caplog):
    publish(owner, 5)
    owner.take_checkpoint()
    (name,) = (engine.name for engine in owner.partition.engines.values())
    keys = owner.broker.keys
    change(owner.broker.connections, keys.checkpoints(owner.number), keys.pieces(owner.number, name, 0))
    counts, next_owner = Counts(), successor(owner)
    next_owner.step()
    assert (counts.checkpoints_ignored, counts.checkpoints_loaded, counts.entries_read) == (1, 0, 5)
    assert f"the checkpoint of engine {name} is ignored" in caplog.text
    publish(next_owner, 1)
    assert owner.totals("good") == (6, 6)
    next_owner.take_checkpoint()
    next_owner.take_checkpoint()
    last = successor(owner)
    last.step()
    assert (counts.checkpoints_loaded, counts.entries_read) == (1, 6)


def test_a_state_of_another_version_is_ignored(owner, monkeypatch):
    publish(owner, 5)
    owner.take_checkpoint()
    monkeypatch.setattr("pushsvc.stats.serialize.VERSION", VERSION + 1)
    counts = Counts()
    last = successor(owner)
    last.step()
    assert (counts.checkpoints_ignored, counts.entries_read) == (1, 5)
    publish(last, 1)
    assert owner.totals("good") == (6, 6)


def test_a_checkpoint_of_other_settings_is_ignored_and_discarded(owner):
    publish(owner, 5)
    owner.take_checkpoint()
    before, counts = stored(owner), Counts()
    rules = TopicRules(default=TopicSettings(windows=(Window.parse("2m"),)))
    next_owner = successor(owner, rules)
    next_owner.step()
    assert (counts.checkpoints_ignored, counts.entries_read) == (1, 5)
    assert owner.totals("good", "2m") == (5, 5)
    next_owner.take_checkpoint()
    assert stored(owner) == {}
    next_owner.take_checkpoint()
    assert set(stored(owner)).isdisjoint(set(before) - {owner.broker.keys.checkpoints(owner.number).encode()})


def test_a_checkpoint_older_than_the_longest_window_is_ignored(owner, monkeypatch):
    publish(owner, 5)
    owner.take_checkpoint()
    later = owner.broker.time() + 86_400_000
    monkeypatch.setattr(owner.broker, "time", lambda *_: later)
    counts = Counts()
    successor(owner).step()
    assert (counts.checkpoints_ignored, counts.entries_read) == (1, 0)


def test_the_checkpoint_of_deleted_topics_is_discarded(owner):
    publish(owner, 2)
    owner.take_checkpoint()
    assert stored(owner)
    owner.broker.delete("good")
    owner.step()
    owner.take_checkpoint()
    assert stored(owner) == {}


def test_the_next_checkpoint_has_nothing_of_a_deleted_topic(owner):
    good, kept, _ = owner.topics
    owner.publish_all(good, [Event(key="a secret", data={"x": 1})])
    publish(owner, 1, kept)
    owner.take_checkpoint()
    assert any(b"a secret" in dump for dump in raw(owner))
    owner.broker.delete(good)
    owner.step()
    owner.take_checkpoint()
    assert not any(b"a secret" in dump for dump in raw(owner))
    assert stored(owner)


def test_the_next_checkpoint_has_nothing_of_a_topic_deleted_between_two_owners(owner):
    good, kept, _ = owner.topics
    owner.publish_all(good, [Event(key="a secret", data={"x": 1})])
    publish(owner, 1, kept)
    owner.take_checkpoint()
    owner.broker.delete(good)
    next_owner = successor(owner)
    next_owner.step()
    next_owner.take_checkpoint()
    assert not any(b"a secret" in dump for dump in raw(owner)), "though nothing more was counted"
    assert stored(owner)


def test_a_failed_engine_is_rebuilt_from_the_log_alone(owner, monkeypatch):
    apply = Aggregate.apply

    def fail(self, name, offset, arrival, events):
        if offset - len(events) < 6 <= offset:
            raise ArithmeticError("made to fail")
        apply(self, name, offset, arrival, events)

    publish(owner, 5)
    owner.take_checkpoint()
    monkeypatch.setattr(Aggregate, "apply", fail)
    owner.publish("good", x=1)
    owner.publish("good", x=2)
    counts, next_owner = Counts(), successor(owner)
    next_owner.step()
    assert owner.totals("good") == (7, 6)
    # The first rebuild finds the poison entry, the second leaves it out.
    assert (counts.checkpoints_loaded, counts.checkpoints_ignored) == (1, 2)


# -- fencing


def test_an_owner_that_lost_the_partition_writes_no_checkpoint(owner):
    publish(owner, 5)
    owner.take_checkpoint()
    publish(owner, 1)
    before, counts = stored(owner), Counts()
    lease(owner.broker, owner.number)
    owner.take_checkpoint()
    assert (counts.checkpoints_written, counts.checkpoints_failed) == (0, 1)
    assert stored(owner) == before


@pytest.mark.parametrize("step", ["write", "commit"])
def test_an_owner_that_loses_the_partition_while_writing_leaves_the_last_checkpoint(owner, monkeypatch, step):
    publish(owner, 5)
    owner.take_checkpoint()
    publish(owner, 2)
    do, taken = getattr(owner.broker.checkpoints, step), []

    def after_another_took_it(*args):
        if step == "commit" or args[3] == 2:
            taken.append(lease(owner.broker, owner.number))
        do(*args)

    monkeypatch.setattr(owner.broker.checkpoints, step, after_another_took_it)
    owner.take_checkpoint()
    assert taken
    counts = Counts()
    successor(owner).step()
    assert (counts.checkpoints_loaded, counts.entries_read) == (1, 2)
    assert owner.totals("good") == (7, 7)


def test_a_commit_whose_answer_was_lost_holds_until_the_next_one(proxy, broker, prefix):
    """The checkpoint after it was written to the place of the committed one, and its owner was killed meanwhile."""
    commit = CHECKPOINT_COMMIT.sha.encode()
    with closing(Broker(proxy.url, prefix)) as through:
        through.check_layout()
        through.open_partitions()
        owner = Owner(through, ["good"])
        publish(owner, 5)
        owner.take_checkpoint()
        publish(owner, 3)
        committed = []
        proxy.upward = lambda data: committed.append(commit in data) or data
        proxy.downward = lambda data: None if any(committed) else data
        counts = Counts()
        owner.take_checkpoint()
        assert counts.checkpoints_failed == 1
        proxy.downward = lambda data: data
        publish(owner, 2)
        proxy.upward = lambda data: None if commit in data else data
        owner.take_checkpoint()
        assert (counts.checkpoints_failed, counts.checkpoints_written) == (2, 0)
    counts = Counts()
    Owner(broker, ["good"]).step()
    assert (counts.checkpoints_loaded, counts.entries_read) == (1, 2)


def test_an_engine_whose_state_cannot_be_saved_goes_on_counting(owner, monkeypatch):
    def fail(_):
        raise TypeError("made to fail")

    publish(owner, 1)
    monkeypatch.setattr(Aggregate, "save", fail)
    counts = Counts()
    owner.take_checkpoint()
    publish(owner, 1)
    assert (counts.checkpoints_written, counts.checkpoints_failed) == (0, 1)
    assert owner.totals("good") == (2, 2)


def test_pieces_of_an_uncommitted_checkpoint_expire(owner, monkeypatch):
    def die(*_):
        raise Fenced("made to fail")

    publish(owner, 1)
    monkeypatch.setattr(owner.broker.checkpoints, "commit", die)
    owner.take_checkpoint()
    client = owner.broker.connections
    (pieces,) = stored(owner)
    assert 0 < client.command("PTTL", pieces) <= 600_000
    monkeypatch.undo()
    publish(owner, 1)
    owner.take_checkpoint()


def test_after_a_rollback_of_redis_log_and_checkpoint_agree(owner):
    """Redis restarts without its last events and its last checkpoint; other events then get the same offsets."""
    client, prefix = owner.broker.connections, owner.broker.keys.prefix
    publish(owner, 3)
    owner.take_checkpoint()
    publish(owner, 1)
    kept = {key: client.command("DUMP", key) for key in client.command("KEYS", f"{prefix}*")}
    publish(owner, 4)
    owner.take_checkpoint()
    client.command("DEL", *client.command("KEYS", f"{prefix}*"))
    for key, value in kept.items():
        client.command("RESTORE", key, 0, value)
    client.command("HSET", owner.broker.keys.partition(owner.number), "run", "f" * 40)
    for _ in range(2):
        owner.publish("good", x=1)
    counts, before = Counts(), stored(owner)
    owner.partition.engines[next(iter(owner.partition.engines))].unsaved.entries = 1
    owner.take_checkpoint()
    assert (counts.checkpoints_written, counts.checkpoints_failed) == (0, 1)
    assert stored(owner) == before
    owner.step()
    assert (counts.checkpoints_loaded, counts.entries_read) == (1, 3)
    assert owner.totals("good") == (6, 6)


# -- when


def test_a_checkpoint_is_due_if_repeating_the_counting_costs_much_more_than_writing():
    policy = CheckpointPolicy()
    checkpointer = Checkpointer(None, policy, None)

    def due(now=200.0, **unsaved):
        return checkpointer.is_due(OwnedEngine("name", engine, taken=100.0, cost=0.1, unsaved=Unsaved(**unsaved)), now)

    engine = LocalEngine(TopicSettings(), 0)
    assert due(entries=1, spent=0.1 / policy.share)
    assert not due(entries=1, spent=0.09 / policy.share)
    assert not due(entries=0, spent=0.1 / policy.share)
    assert not due(100.0 + 0.9 * policy.interval, entries=1, spent=0.1 / policy.share)
    assert not due(forgot=True)  # Redis has no checkpoint of it


def test_a_failing_discard_does_not_block_other_checkpoints(owner, broker, monkeypatch):
    """In a cluster one primary may be away; the partitions of the others go on."""
    publish(owner, 3)
    away = [Owner(broker, [topic]) for topic in ("elsewhere", "anywhere")]
    for one in away:
        publish(one, 1, one.topics[0])
        one.partition.stale.add("an engine that no longer exists")
    tried, discard = [], broker.checkpoints.discard

    def fail(by, engines):
        tried.append(by.partition)
        if by.partition == away[0].number:
            raise BrokerUnavailable("made to fail")
        discard(by, engines)

    monkeypatch.setattr(broker.checkpoints, "discard", fail)
    checkpoints, counts = owner.worker.checkpointer, Counts()
    for one in away:
        one.partition.topics[one.topics[0]].engine.unsaved.entries = 0
    for _ in range(6):
        checkpoints.poll([away[0].partition, away[1].partition, owner.partition])
        assert checkpoints.wait(60)
    assert counts.checkpoints_written == 1
    assert away[0].partition.stale
    assert away[1].partition.stale == set()
    assert tried.count(away[0].number) > 1, "it is tried again"


def test_without_new_entries_no_checkpoint_is_written(owner):
    publish(owner, 2)
    owner.take_checkpoint()
    before, counts = stored(owner), Counts()
    owner.step()
    owner.take_checkpoint()
    assert counts.checkpoints_written == 0
    assert stored(owner) == before


def test_the_next_checkpoint_waits_for_the_average_write_rate(owner):
    owner = successor(owner, bytes_per_second=1)
    publish(owner, 2)
    owner.take_checkpoint()
    publish(owner, 2)
    counts = Counts()
    owner.take_checkpoint()
    assert counts.checkpoints_written == 0


# -- an orderly end


def finish(owner, cost=0.0):
    """End in order; writing a checkpoint costs so many CPU seconds."""
    owner.partition.topics["good"].engine.cost = cost
    owner.worker.checkpointer.finish(owner.worker.partitions.values())
    owner.worker.checkpointer.close()


def test_after_an_orderly_end_a_successor_reads_no_entry_again(owner):
    publish(owner, 5)
    owner.take_checkpoint()
    publish(owner, 3)
    finish(owner)
    counts, next_owner = Counts(), successor(owner)
    next_owner.step()
    assert (counts.checkpoints_loaded, counts.entries_read) == (1, 0)
    assert owner.totals("good") == (8, 8)
    publish(next_owner, 2)
    assert counts.entries_read == 2


def test_an_orderly_end_waits_for_the_checkpoint_that_is_being_written(owner):
    owner = successor(owner, burst=5_000_000)  # some hundredths of a second for a checkpoint
    counts = Counts()
    publish(owner, 5)
    owner.worker.checkpointer.poll([owner.partition])
    publish(owner, 1)
    assert counts.checkpoints_written == 0
    finish(owner)
    assert counts.checkpoints_written == 2
    counts = Counts()
    successor(owner).step()
    assert (counts.checkpoints_loaded, counts.entries_read) == (1, 0)


def test_an_orderly_end_writes_no_checkpoint_that_costs_more_than_it_saves(owner):
    for worth, cost in ((60.0, 0.0), (0.0, 60.0)):
        owner = successor(owner, worth=worth)
        publish(owner, 3)
        finish(owner, cost)
    assert stored(owner) == {}


def test_an_orderly_end_of_an_owner_that_lost_the_partition_writes_nothing(owner):
    publish(owner, 5)
    owner.take_checkpoint()
    publish(owner, 3)
    before, counts = stored(owner), Counts()
    lease(owner.broker, owner.number)
    finish(owner)
    assert (counts.checkpoints_written, counts.checkpoints_failed) == (0, 1)
    assert stored(owner) == before


def test_a_checkpoint_that_is_not_written_in_time_leaves_the_last_one(owner, monkeypatch):
    publish(owner, 5)
    owner.take_checkpoint()
    publish(owner, 3)
    pieces, write = [], owner.broker.checkpoints.write
    monkeypatch.setattr(owner.broker.checkpoints, "write", lambda *args: pieces.append(args[3]) or write(*args))
    written = metric("pushsvc_checkpoints_written_total")
    hurried = successor(owner, last=0.2)
    hurried.step()
    publish(hurried, 1)
    hurried.partition.topics["good"].engine.unsaved.spent = 1.0
    finish(hurried, cost=0.3)
    assert pieces == [], "it would take too long"
    slow = successor(owner, last=0.2, piece_bytes=1, burst=1)  # one byte a second
    slow.step()
    publish(slow, 1)
    engine = slow.partition.topics["good"].engine
    engine.stored = msgspec.structs.replace(engine.stored, size=0)  # the last one was much smaller
    finish(slow)
    assert pieces == [0]
    counts = Counts()
    successor(owner).step()
    assert (counts.checkpoints_loaded, counts.entries_read) == (1, 5)
    assert owner.totals("good") == (10, 10)
    assert metric("pushsvc_checkpoints_written_total") == written
