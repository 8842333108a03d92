"""Alerts are evaluated by the owner of a partition: each transition is stored and sent once, also across takeovers."""

import os
import signal
from dataclasses import replace

import pytest
from prometheus_client import REGISTRY

from pushsvc.alerts.rule import ALERTS_TOPIC, AlertRule, read_rule
from pushsvc.broker.keys import Log
from pushsvc.errors import BrokerUnavailable
from pushsvc.event import Event
from pushsvc.settings import TopicRules, TopicSettings
from pushsvc.stats.window import Window
from pushsvc.worker.policy import WorkerPolicy
from pushsvc.worker.shards.pool import ShardPool
from support.owner import Owner
from support.waiting import until

WINDOWS = TopicSettings(windows=(Window.parse("10s"), Window.parse("1m")), cadence=0)
RULES = TopicRules(default=WINDOWS)
ASLEEP = WorkerPolicy(retry_pause=0.0, quiet_pause=0.0)  # small topics are counted on demand


@pytest.fixture
def new_owner(broker):
    """Return a function that starts a worker, which takes the partition over from the one before."""
    broker.check_layout()

    def start(policy=None, topic="sales", rules=RULES):
        owner = Owner(broker, [topic], rules, unwanted=True, **({"policy": policy} if policy else {}))
        owner.worker.alerts.refresh(owner.worker.partitions.values())
        return owner

    return start


@pytest.fixture
def define(broker):
    def define(name="low", **members):
        rule = read_rule(name, {"topic": "sales", **members})
        broker.alerts.define(rule)
        return rule

    return define


def events(broker):
    """Return the events of the topic of alerts."""
    of = Log(ALERTS_TOPIC)
    return [event for entry in broker.read(of.partition, {of: 0}).logs[of].entries for event in entry.events]


def told(broker):
    return [(event.type, event.key, event.data["row"], event.data["value"]) for event in events(broker)]


def work(owner, times=1):
    """Let every rule have its turn, and send what it brings."""
    for _ in range(times):
        for partition in owner.worker.partitions.values():
            if partition.alerts is not None:
                partition.alerts.turns.clear()
                partition.alerts.wake_at = 0
        owner.step(2)
        owner.worker.alert_sender.send()


def raised(owner):
    held = owner.partition.alerts
    return {} if held is None else {name: dict(states.rows) for name, states in held.states.items()}


def test_a_condition_that_holds_raises_once_and_resolves_once(broker, new_owner, define):
    define(when="mean(rating, 1m) < 3 and count(1m) >= 2")
    owner = new_owner()
    owner.publish("sales", rating=1)
    work(owner, 2)
    assert told(broker) == []
    owner.publish("sales", rating=2)
    work(owner, 3)
    assert told(broker) == [("raised", "low", None, 1.5)]
    owner.publish("sales", rating=9)
    work(owner, 3)
    assert told(broker) == [("raised", "low", None, 1.5), ("resolved", "low", None, 4.0)]
    first, second = events(broker)
    assert first.data["when"] == "mean(rating, 1m) < 3 and count(1m) >= 2"
    assert first.data["topic"] == "sales"
    assert second.data["since"] == first.data["since"]
    assert first.id != second.id


def test_each_key_has_its_own_alert(broker, new_owner, define):
    define(when="max(n, 1m) > 5 and max(n, 1m) > 0.5 * max(n, 1m, key=*)", by="key")
    owner = new_owner()
    owner.publish_all("sales", [Event(key=key, data={"n": n}) for key, n in (("a", 9), ("b", 2), ("c", 6))])
    work(owner, 2)
    assert sorted(told(broker)) == [("raised", "low", "a", 9.0), ("raised", "low", "c", 6.0)]
    owner.publish_all("sales", [Event(key="b", data={"n": 20})])
    work(owner, 2)
    assert sorted(told(broker)[2:]) == [("raised", "low", "b", 20.0), ("resolved", "low", "a", 9.0),
                                        ("resolved", "low", "c", 6.0)]  # fmt: skip


def test_silence_is_noticed_without_a_topic_and_ends_with_an_event(broker, new_owner, define):
    define(when="count(1m) = 0")
    owner = new_owner()
    work(owner, 2)
    assert told(broker) == [("raised", "low", None, 0.0)]
    owner.publish("sales", n=1)
    work(owner, 3)
    assert told(broker)[1:] == [("resolved", "low", None, 1.0)]


def test_a_topic_that_nobody_watches_is_counted_for_its_alert(broker, new_owner, define):
    owner = new_owner(ASLEEP)
    owner.publish("sales", n=1)
    owner.step()
    assert owner.partition.topics == {}
    define(when="count(1m) >= 2")
    owner.worker.alerts.refresh(owner.worker.partitions.values())
    owner.publish("sales", n=1)
    until(lambda: (work(owner), told(broker))[1] == [("raised", "low", None, 2.0)])
    owner.partition.rest(1_000)
    assert "sales" in owner.partition.topics


def test_a_condition_must_hold_for_its_time_also_across_a_takeover(broker, new_owner, define):
    define(when="count(1m) > 0", **{"for": "1s"})
    owner = new_owner()
    owner.publish("sales", n=1)
    work(owner)
    assert told(broker) == []
    since = raised(owner)["low"][None].since
    successor = new_owner()
    until(lambda: (work(successor), told(broker))[1] == [("raised", "low", None, 1.0)])
    assert raised(successor)["low"][None].since == since
    assert events(broker)[0].time - since >= 1_000


def test_a_successor_repeats_no_transition(broker, new_owner, define):
    define(when="count(1m) > 0", by="key")
    for key in ("a", "b", "a"):
        owner = new_owner()
        owner.publish_all("sales", [Event(key=key)])
        work(owner, 2)
    assert told(broker) == [("raised", "low", "a", 1.0), ("raised", "low", "b", 1.0)]


def test_a_successor_sends_what_its_predecessor_could_not(broker, new_owner, define, monkeypatch):
    define(when="count(1m) > 0")
    owner = new_owner()
    owner.publish("sales", n=1)

    def fail(*_):
        raise BrokerUnavailable("away")

    monkeypatch.setattr(owner.worker.alert_sender, "_publish", fail)
    with pytest.raises(BrokerUnavailable):
        work(owner, 3)
    work(new_owner(), 2)
    assert told(broker) == [("raised", "low", None, 1.0)]


@pytest.mark.parametrize("age", [0, 3_600_000])
def test_an_event_that_was_sent_but_not_marked_is_stored_once(broker, new_owner, define, monkeypatch, age):
    """The owner was killed between two steps. After an hour Redis no longer knows the id, but the log does."""
    define(when="count(1m) > 0")
    owner = new_owner()
    owner.publish("sales", n=1)
    monkeypatch.setattr(broker.alerts, "sent", lambda *_: None)
    work(owner, 2)
    monkeypatch.undo()
    if age:
        broker.connections.command("DEL", *broker.keys.ids(ALERTS_TOPIC))
        monkeypatch.setattr("pushsvc.worker.alerts.sender._TRUSTED_AGE", -1)
    work(new_owner(), 2)
    assert told(broker) == [("raised", "low", None, 1.0)]
    assert broker.alerts.load(owner.number).outbox == {}


def test_an_owner_that_lost_the_partition_stores_nothing(broker, new_owner, define):
    define(when="count(1m) > 0")
    owner = new_owner()
    work(owner)
    successor = new_owner()
    owner.publish("sales", n=1)
    work(owner, 2)
    assert told(broker) == []
    work(successor, 2)
    assert told(broker) == [("raised", "low", None, 1.0)]


def test_removing_or_changing_an_alert_resolves_what_it_raised(broker, new_owner, define):
    rule = define(when="count(1m) > 0")
    owner = new_owner()
    owner.publish("sales", n=1)
    work(owner, 2)
    define(when="count(1m) >= 1")
    owner.worker.alerts.refresh(owner.worker.partitions.values())
    work(owner, 2)
    broker.alerts.remove(rule.name)
    work(new_owner(), 2)
    assert [event.type for event in events(broker)] == ["raised", "resolved", "raised", "resolved"]
    assert len({event.id for event in events(broker)}) == 4
    assert [event.data["when"] for event in events(broker)][1:3] == ["count(1m) > 0", "count(1m) >= 1"]
    assert broker.alerts.load(owner.number).states == {}


def test_an_alert_that_is_defined_while_another_is_stored_is_evaluated(broker, new_owner, define, monkeypatch):
    """An evaluation waits for Redis. The alerts of before decided when the next one is: without any, never."""
    rule = define(when="count(1m) > 0")
    owner = new_owner()
    owner.publish("sales", n=1)
    work(owner, 2)
    commit = broker.alerts.commit

    def commit_slowly(*changes):
        commit(*changes)
        monkeypatch.undo()
        define("other", when="count(1m) >= 1")
        owner.worker.alerts.refresh(owner.worker.partitions.values())

    monkeypatch.setattr(broker.alerts, "commit", commit_slowly)
    broker.alerts.remove(rule.name)
    owner.worker.alerts.refresh(owner.worker.partitions.values())
    until(lambda: owner.step() or owner.worker.alert_sender.send() or len(told(broker)) == 3)
    assert [(kind, name) for kind, name, *_ in told(broker)] == [
        ("raised", "low"), ("resolved", "low"), ("raised", "other"),
    ]  # fmt: skip


def test_an_event_rule_raises_for_each_event_from_its_definition_on(broker, new_owner, define):
    none = TopicRules(default=TopicSettings(windows=()))
    owner = new_owner(rules=none)
    owner.publish("sales", rating=0)
    define(when='event.rating <= 1 and event.type = "review"')
    owner.worker.alerts.refresh(owner.worker.partitions.values())
    work(owner)
    sent = [Event(type="review", key=f"k{n}", data={"rating": n % 3}) for n in range(6)]
    owner.publish_all("sales", sent[:3])
    work(owner, 2)
    successor = new_owner(rules=none)
    owner.publish_all("sales", [*sent[3:], Event(data={"rating": 0})])
    work(successor, 3)
    assert told(broker) == [("raised", "low", f"k{n}", float(n % 3)) for n in (0, 1, 3, 4)]
    assert [event.data["event"] for event in events(broker)] == ["$2", "$3", "$5", "$6"]


def test_an_event_rule_looks_at_what_came_before_the_first_aggregator(broker, new_owner):
    for rating in (0, 1, 5):
        broker.publish("sales", [Event(data={"rating": rating})], WINDOWS)
    broker.alerts.define(replace(read_rule("low", {"topic": "sales", "when": "event.rating <= 1"}), after=1))
    work(new_owner(), 3)
    assert [event.data["event"] for event in events(broker)] == ["$2"]


def test_an_event_rule_of_the_same_name_begins_anew(broker, new_owner):
    """A position is kept for a name: that of an earlier rule is no beginning of the next."""

    def defined(when):
        [log] = broker.metadata([Log("sales")])
        rule = read_rule("low", {"topic": "sales", "when": when})
        broker.alerts.define(replace(rule, after=int(log.get("last", 0))))

    def publish(*ratings):
        for rating in ratings:
            broker.publish("sales", [Event(data={"rating": rating})], WINDOWS)

    defined("event.rating <= 1")
    publish(5)
    work(new_owner(), 3)
    publish(9)  # before the next definition
    defined("event.rating >= 8")
    publish(8)
    work(new_owner(), 3)
    broker.alerts.remove("low")
    publish(8)
    defined("event.rating >= 8")
    publish(8)
    work(new_owner(), 3)
    assert [event.data["event"] for event in events(broker)] == ["$3", "$5"]


def test_a_rule_that_does_not_fit_its_topic_is_left_alone(broker, new_owner, define):
    define("wrong", when="count(7m) > 0")
    define("right", when="count(1m) > 0")
    owner = new_owner()
    owner.publish("sales", n=1)
    work(owner, 2)
    assert told(broker) == [("raised", "right", None, 1.0)]


def test_a_rule_of_the_settings_wins_over_one_of_a_request(broker, define):
    define(when="count(1m) > 0")
    fixed = AlertRule("low", "other", "count(1m) > 1")
    owner = Owner(broker, ["sales"], RULES, unwanted=True)
    owner.worker.alerts._fixed = {"low": fixed}
    owner.worker.alerts.refresh([])
    assert owner.worker.alerts.by_name == {"low": fixed}


def test_parts_of_a_topic_raise_alerts_and_a_killed_one_is_restored(broker, new_owner, define):
    """The loss is noticed by the rule: nothing else asks the shards, because nobody reads the statistics."""
    define(when="count(1m) >= 2 and count(1m, key=*) >= 3", by="key")
    define("all", when="mean(rating, 1m) < 3")
    rules = TopicRules((("sales", replace(WINDOWS, parts=2)),))
    owner = new_owner(rules=rules)
    owner.publish_all("sales", [Event(key=key, data={"rating": 1}) for key in "aab"])
    work(owner, 2)
    assert sorted(told(broker)) == [("raised", "all", None, 1.0), ("raised", "low", "a", 2.0)]
    lost = REGISTRY.get_sample_value("pushsvc_parts_lost_total")
    engine = owner.partition.topics["sales"].engine.engine
    assert isinstance(engine, ShardPool)
    os.kill(engine.shards[1].pid, signal.SIGKILL)
    owner.publish_all("sales", [Event(key="b", data={"rating": 9})])
    until(lambda: work(owner) or len(told(broker)) == 4)
    assert sorted(told(broker)[2:]) == [("raised", "low", "b", 2.0), ("resolved", "all", None, 3.0)]
    assert REGISTRY.get_sample_value("pushsvc_parts_lost_total") > lost
    owner.partition.end()
