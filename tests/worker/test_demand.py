"""Frames are written for windows that somebody reads, and for no others."""

import pytest

from pushsvc.broker.keys import Log, is_statistics
from pushsvc.broker.log import FrameKind
from pushsvc.event import Event
from pushsvc.settings import TopicRules, TopicSettings
from pushsvc.stats.window import Window
from pushsvc.worker.policy import WorkerPolicy
from support.metrics import metric
from support.owner import Owner, neighbours
from support.waiting import until

WINDOWS = TopicSettings(windows=(Window.parse("1m"), Window.parse("1h")))


@pytest.fixture
def owner(broker):
    broker.check_layout()
    return Owner(broker, ["sales", *neighbours("sales", 1)], TopicRules(default=WINDOWS), unwanted=True)


def ask(owner, topic="sales", window="1m"):
    """Ask for a window, and notify the owner as Redis does; return whether its frames are current."""
    log = Log(topic, window)
    (answer,) = owner.broker.demand.ask([log])
    if not answer.current:
        owner.partition.ask(log.name, owner.broker.demand.lifetime)
    return answer.current


def end_of_demand(owner, topic="sales", window="1m"):
    """Let the demand for a window be over, and the owner notice it."""
    partition, name = owner.partition, Log(topic, window).name
    owner.broker.connections.command("HSET", owner.broker.keys.wanted(owner.number), name, "1 0")
    partition.demand.renew({name: 1}, partition.now - 10)
    partition.unsure = True
    owner.worker.step()


def kinds(owner, topic="sales", window="1m"):
    return [frame.kind for frame in owner.frames(topic, window)]


def test_a_window_that_nobody_wants_has_no_frame_and_no_key(owner):
    owner.publish("sales", n=1)
    owner.step()
    assert owner.partition.topics["sales"].counts.offset == 1
    assert owner.frames("sales") == []
    assert not any(
        is_statistics(key.decode()) for key in owner.broker.connections.command("KEYS", f"{owner.broker.keys.prefix}*")
    )
    assert owner.partition.wake is None or owner.partition.wake > owner.partition.now + 3_600_000


def test_the_first_frame_has_everything_and_updates_follow(owner):
    for number in range(3):
        owner.publish("sales", n=number)
        owner.step()
    assert not ask(owner)
    owner.worker.step()
    assert ask(owner)
    assert owner.totals("sales") == (3, 3)
    assert owner.frames("sales", "1h") == []
    assert owner.frames(owner.topics[1]) == []
    owner.publish("sales", n=3)
    until(lambda: (owner.step(1), owner.totals("sales"))[1] == (4, 4))
    assert kinds(owner) == [FrameKind.SNAPSHOT, FrameKind.UPDATE]


def test_a_request_for_one_window_repeats_no_other(owner):
    owner.publish("sales", n=1)
    ask(owner, window="1h")
    owner.worker.step()
    ask(owner, window="1m")
    owner.worker.step()
    assert (len(kinds(owner, window="1m")), len(kinds(owner, window="1h"))) == (1, 1)


def test_a_window_is_suspended_when_its_demand_is_over_and_begins_anew(owner):
    owner.publish_all("sales", [Event(key=f"k{number}", data={"n": 1}) for number in range(3)])
    ask(owner)
    owner.worker.step()
    end_of_demand(owner)
    before = kinds(owner)
    owner.publish("sales", n=1)
    owner.step()
    assert kinds(owner) == before
    assert not ask(owner)
    owner.worker.step()
    *_, last = owner.frames("sales")
    assert (last.kind, last.source) == (FrameKind.SNAPSHOT, 4)
    assert sorted({row[0] for row in last.frame["data"] if row[0]}) == ["k", "k0", "k1", "k2"]


def test_a_demand_that_was_renewed_goes_on(owner):
    owner.publish("sales", n=1)
    ask(owner)
    owner.worker.step()
    partition = owner.partition
    partition.demand.renew({Log("sales", "1m").name: 1}, partition.now - 10)
    partition.unsure = True
    owner.worker.step()
    assert partition.topics["sales"].reported == {"1m"}
    assert partition.demand.over(partition.now) == []


def test_a_window_that_is_asked_for_while_its_demand_ends_stays_wanted(owner, monkeypatch):
    """The aggregator asks Redis whether the demand is over. The request comes between its question and the answer."""
    owner.publish("sales", n=1)
    ask(owner)
    owner.worker.step()
    end = owner.broker.demand.end

    def end_and_ask(*arguments):
        left = end(*arguments)
        ask(owner)
        return left

    monkeypatch.setattr(owner.broker.demand, "end", end_and_ask)
    end_of_demand(owner)
    owner.worker.step()
    assert kinds(owner) == [FrameKind.SNAPSHOT, FrameKind.SNAPSHOT]
    assert ask(owner)


def test_a_topic_is_wanted_before_it_exists(owner):
    owner.worker.step()
    owner.broker.demand.ask([Log("sales", "1m")], unborn=True)
    owner.partition.ask(Log("sales", "1m").name, owner.broker.demand.lifetime)
    owner.worker.step()
    owner.publish("sales", n=1)
    owner.step()
    assert kinds(owner) == [FrameKind.SNAPSHOT]


def test_a_successor_goes_on_with_the_windows_that_are_wanted(owner):
    other = owner.topics[1]
    for topic in owner.topics:
        owner.publish(topic, n=1)
    ask(owner)
    owner.step()
    owner.take_checkpoint()
    owner.publish("sales", n=2)
    owner.publish(other, n=2)
    successor = Owner(owner.broker, owner.topics, owner.rules, unwanted=True)
    successor.step()
    assert kinds(owner) == [FrameKind.SNAPSHOT, FrameKind.SNAPSHOT]
    assert successor.totals("sales") == (2, 2)
    assert successor.frames(other) == []
    assert successor.partition.topics[other].counts.offset == 2


def test_late_events_of_a_window_that_nobody_wants_are_reported_once(broker):
    broker.check_layout()
    rules = TopicRules(default=TopicSettings(windows=(Window.parse("1m"),)))
    owner = Owner(broker, ["sales"], rules, unwanted=True)

    def reported():
        (metadata,) = broker.metadata([Log("sales")])
        return int(metadata.get("late", 0))

    owner.publish("sales", n=1)
    owner.publish_all("sales", [Event(time=owner.partition.now - 600_000, data={"n": 1}) for _ in range(2)])
    owner.step()
    assert reported() == 2
    owner.step()
    successor = Owner(broker, ["sales"], rules, unwanted=True)
    successor.step()
    assert successor.partition.topics["sales"].counts.late == 2
    assert reported() == 2
    successor.publish_all("sales", [Event(time=successor.partition.now - 600_000, data={"n": 1})])
    successor.step()
    assert reported() == 3


# Dormant topics


@pytest.fixture
def thrifty(broker):
    """An owner that counts a topic that nobody wants only if it has more than 100 entries."""
    broker.check_layout()
    policy = WorkerPolicy(retry_pause=0.0, quiet_pause=0.0, rebuilt_entries=100)
    return Owner(broker, ["sales", *neighbours("sales", 1)], TopicRules(default=WINDOWS), policy, unwanted=True)


def notify(owner, topic="sales", count=1):
    """Publish events one by one, and notify the owner of each, as Redis does."""
    for number in range(count):
        owner.publish(topic, n=number)
        owner.partition.add_unread(topic)
        owner.worker.step()


def test_a_small_topic_that_nobody_wants_is_not_counted(thrifty):
    notify(thrifty, count=5)
    partition = thrifty.partition
    assert (list(partition.topics), list(partition.engines), "sales" in partition.dormant) == ([], [], True)
    ask(thrifty)
    thrifty.worker.step()
    assert thrifty.totals("sales") == (5, 5)
    notify(thrifty)
    until(lambda: (thrifty.step(1), thrifty.totals("sales"))[1] == (6, 6))
    end_of_demand(thrifty)
    assert (list(partition.topics), "sales" in partition.dormant) == ([], True)
    notify(thrifty)
    ask(thrifty)
    thrifty.worker.step()
    assert thrifty.totals("sales") == (7, 7)


def test_a_topic_with_many_entries_is_counted_whether_somebody_wants_it_or_not(thrifty):
    notify(thrifty, count=129)
    assert thrifty.partition.topics["sales"].counts.offset == 129
    ask(thrifty)
    thrifty.worker.step()
    end_of_demand(thrifty)
    assert "sales" in thrifty.partition.topics


def test_a_topic_with_long_entries_is_counted(thrifty):
    for _ in range(65):
        thrifty.publish("sales", text="x" * 10_000)
        thrifty.partition.add_unread("sales")
        thrifty.worker.step()
    assert thrifty.partition.topics["sales"].counts.offset >= 64


def test_a_topic_is_dormant_again_once_its_many_entries_have_left_the_windows(thrifty, monkeypatch):
    notify(thrifty, count=129)
    partition = thrifty.partition
    for _ in range(2):  # the entries of the last and of the present period count
        assert "sales" in partition.topics
        monkeypatch.setattr(partition, "skew", partition.skew + 2 * 3_600_000)
        partition.rest(100)
    assert "sales" in partition.dormant


def test_a_deleted_topic_is_not_remembered_as_dormant(thrifty):
    notify(thrifty)
    thrifty.broker.delete("sales")
    thrifty.partition.note_ended("sales")
    assert "sales" not in thrifty.partition.dormant
    notify(thrifty)
    ask(thrifty)
    thrifty.worker.step()
    assert thrifty.totals("sales") == (2, 1)


def test_a_deletion_that_was_not_noticed_leaves_nothing_behind(thrifty):
    notify(thrifty)
    thrifty.broker.delete("sales")
    thrifty.partition.look_everywhere()
    thrifty.worker.step()
    assert "sales" not in thrifty.partition.dormant


@pytest.mark.parametrize("setting", [{"clock": "event"}, {"windows": (Window.parse("last 200"),)}])
def test_windows_that_need_more_than_a_few_entries_are_counted(broker, setting):
    broker.check_layout()
    rules = TopicRules(default=TopicSettings(**setting))
    policy = WorkerPolicy(retry_pause=0.0, quiet_pause=0.0, rebuilt_entries=100)
    owner = Owner(broker, ["sales"], rules, policy, unwanted=True)
    notify(owner)
    assert owner.partition.topics["sales"].counts.offset == 1


def test_late_events_of_a_dormant_topic_are_reported_when_somebody_asks(thrifty):
    notify(thrifty)
    thrifty.publish_all("sales", [Event(time=thrifty.partition.now - 7_200_000, data={"n": 1})])
    thrifty.partition.add_unread("sales")
    thrifty.worker.step()

    def reported():
        (metadata,) = thrifty.broker.metadata([Log("sales")])
        return int(metadata.get("late", 0))

    assert reported() == 0
    for _ in range(2):
        ask(thrifty)
        thrifty.worker.step()
        assert reported() == 1
        end_of_demand(thrifty)
        assert "sales" in thrifty.partition.dormant


def test_old_events_that_are_counted_on_demand_are_no_lag(thrifty):
    notify(thrifty, count=3)
    gauge = "pushsvc_aggregator_lag_ms"
    before = metric(gauge)
    ask(thrifty)
    thrifty.worker.step()
    assert metric(gauge) == before
    assert thrifty.totals("sales") == (3, 3)
