"""An aggregator's worker, step by step, over a real Redis."""

import gevent
import pytest

from pushsvc.aggregate.aggregate import Aggregate
from pushsvc.errors import BrokerUnavailable
from pushsvc.event import Batch, Event
from pushsvc.settings import TopicRules, TopicSettings
from pushsvc.stats.window import Window
from pushsvc.worker.policy import WorkerPolicy
from pushsvc.worker.worker import AggregatorWorker
from support.metrics import metric
from support.owner import Owner, neighbours


@pytest.fixture
def owner(broker):
    broker.check_layout()
    return Owner(broker, ["good", *neighbours("good", 1)])


def test_a_poison_entry_is_left_out_and_affects_no_other_topic(owner, monkeypatch):
    """No real entry makes an engine fail, so the test does."""
    apply, (good, bad) = Aggregate.apply, owner.topics

    applied = []

    def fail(self, name, offset, arrival, events):
        if name == bad and offset - len(events) < 2 <= offset:  # by itself or with others
            raise ArithmeticError("made to fail")
        applied.append((name, len(events)))
        apply(self, name, offset, arrival, events)

    monkeypatch.setattr(Aggregate, "apply", fail)
    before = metric("pushsvc_entries_uncountable_total")
    for number in range(3):
        owner.publish(bad, x=number)
        owner.publish(good, x=number)
    owner.step()
    assert owner.totals(good) == (3, 3)
    assert owner.totals(bad) == (3, 2)
    assert (bad, 0) in applied
    assert metric("pushsvc_entries_uncountable_total") == before + 1
    owner.publish(bad, x=4)
    owner.publish(good, x=4)
    owner.step()
    assert owner.totals(bad) == (4, 3)


def test_consecutive_entries_are_counted_together(owner, monkeypatch):
    apply, applied = Aggregate.apply, []

    def note(self, name, offset, arrival, events):
        applied.append((name, len(events)))
        apply(self, name, offset, arrival, events)

    monkeypatch.setattr(Aggregate, "apply", note)
    for number in range(50):
        for topic in owner.topics:
            owner.publish(topic, x=number)
    owner.step()
    for topic in owner.topics:
        assert owner.totals(topic) == (50, 50)
        assert sum(size for name, size in applied if name == topic) == 50
    assert len(applied) < 50, "seconds may end between two of them"


def test_an_unreadable_entry_among_others_is_left_out(owner):
    settings = owner.rules.settings_of("good")
    for number in range(9):
        owner.publish("good", x=number)
        if number == 4:
            owner.broker.publish("good", Batch(b"no event of ours", 1), settings)
    owner.step()
    assert owner.totals("good") == (10, 9)


def test_an_unreachable_redis_is_logged_once(owner, monkeypatch, caplog):
    """Each of 64 partitions may be tried twice a second."""
    read = owner.broker.read

    def fail(*_, **__):
        raise BrokerUnavailable("made to fail")

    for outages in (1, 2):
        owner.publish("good", x=1)
        monkeypatch.setattr(owner.broker, "read", fail)
        owner.step(5)
        monkeypatch.setattr(owner.broker, "read", read)
        owner.step(2)
        assert caplog.text.count("made to fail") == outages


def test_the_event_loop_runs_while_a_long_log_is_counted(owner):
    """Else the leases expire, and the next owner does not reach the end of the log either."""
    owner = Owner(owner.broker, owner.topics, policy=WorkerPolicy(yield_interval=0.0, run_bytes=1, quiet_pause=0.0))
    for number in range(100):
        owner.publish("good", x=number)
    turns = []

    def others():
        while True:
            turns.append(1)
            gevent.sleep(1e-6)  # once per turn of the loop

    greenlet = gevent.spawn(others)
    owner.step()
    greenlet.kill()
    assert owner.totals("good") == (100, 100)
    assert len(turns) > 50


def test_numbers_beyond_the_limit_of_fields_are_counted(owner):
    before = metric("pushsvc_numbers_ignored_total")
    owner.publish("good", **{f"field-{n}": n for n in range(32)})
    owner.publish("good", one_more=1)
    owner.step()
    assert metric("pushsvc_numbers_ignored_total") == before + 1


def test_a_count_window_is_rebuilt_from_old_events(owner, monkeypatch):
    for number in range(9):
        owner.publish("good", x=number)
    later = owner.broker.time() + 86_400_000
    monkeypatch.setattr(owner.broker, "time", lambda *_: later)
    windows = tuple(map(Window.parse, ("1m", "last 5", "last 3")))
    next_owner = Owner(owner.broker, owner.topics, TopicRules(default=TopicSettings(windows=windows)))
    next_owner.step()
    assert [owner.totals("good", window.name) for window in windows] == [(9, 0), (9, 5), (9, 3)]
    windows = (Window.parse("last 100"),)
    next_owner = Owner(owner.broker, owner.topics, TopicRules(default=TopicSettings(windows=windows)))
    next_owner.step()
    assert owner.totals("good", "last 100") == (9, 9)


def test_the_logs_of_owned_partitions_are_swept(broker):
    broker.check_layout()
    topics = TopicSettings(windows=(Window.parse("1m"),))
    for number in range(3):
        broker.publish("good", [Event(data={"n": number})], topics)
    worker = AggregatorWorker(broker, TopicRules(default=topics))
    worker.sweeper.round()
    assert metric("pushsvc_log_bytes") == 0, "no partition is owned yet"
    worker.leases.renew()
    worker.sweeper.round()
    assert metric("pushsvc_log_bytes") == len('{"n":0}') * 3
