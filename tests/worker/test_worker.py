"""An aggregator's worker, turn by turn, over a real Redis."""

import gevent
import pytest

from pushsvc.aggregate.aggregate import Aggregate
from pushsvc.errors import BrokerUnavailable
from pushsvc.event import Batch, Event
from pushsvc.settings import TopicRules, TopicSettings
from pushsvc.stats.window import Window
from pushsvc.worker.worker import AggregatorWorker
from support.owner import Owner, counted, neighbours


@pytest.fixture
def owner(broker):
    broker.check_layout()
    return Owner(broker, ["good", *neighbours("good", 1)])


def test_an_entry_that_no_engine_can_count_is_left_out_and_stops_nobody(owner, monkeypatch):
    """No such entry is known, so the engine is made to fail."""
    apply, (good, bad) = Aggregate.apply, owner.topics

    applied = []

    def fail(self, name, offset, arrival, events):
        if name == bad and offset - len(events) < 2 <= offset:  # by itself or with others
            raise ArithmeticError("made to fail")
        applied.append((name, len(events)))
        apply(self, name, offset, arrival, events)

    monkeypatch.setattr(Aggregate, "apply", fail)
    monkeypatch.setattr("pushsvc.worker.worker._PAUSE", 0)
    before = counted("pushsvc_entries_uncountable_total")
    for number in range(3):
        owner.publish(bad, x=number)
        owner.publish(good, x=number)
    owner.turns()
    assert owner.told(good) == (3, 3)
    assert owner.told(bad) == (3, 2)
    assert (bad, 0) in applied
    assert counted("pushsvc_entries_uncountable_total") == before + 1
    owner.publish(bad, x=4)
    owner.publish(good, x=4)
    owner.turns()
    assert owner.told(bad) == (4, 3)


def test_entries_that_came_one_after_the_other_are_counted_as_one(owner, monkeypatch):
    apply, applied = Aggregate.apply, []

    def note(self, name, offset, arrival, events):
        applied.append((name, len(events)))
        apply(self, name, offset, arrival, events)

    monkeypatch.setattr(Aggregate, "apply", note)
    for number in range(50):
        for topic in owner.topics:
            owner.publish(topic, x=number)
    owner.turns()
    for topic in owner.topics:
        assert owner.told(topic) == (50, 50)
        assert sum(size for name, size in applied if name == topic) == 50
    assert len(applied) < 50, "but for the seconds between"


def test_one_among_them_that_cannot_be_read_is_left_out(owner):
    settings = owner.rules.settings_of("good")
    for number in range(9):
        owner.publish("good", x=number)
        if number == 4:
            owner.broker.publish("good", Batch(b"no event of ours", 1), settings)
    owner.turns()
    assert owner.told("good") == (10, 9)


def test_a_redis_that_is_away_is_told_of_once(owner, monkeypatch, caplog):
    """There may be 64 partitions, and each is tried twice a second."""
    monkeypatch.setattr("pushsvc.worker.worker._PAUSE", 0)
    read = owner.broker.read

    def fail(*_):
        raise BrokerUnavailable("made to fail")

    for outages in (1, 2):
        owner.publish("good", x=1)
        monkeypatch.setattr(owner.broker, "read", fail)
        owner.turns(5)
        monkeypatch.setattr(owner.broker, "read", read)
        owner.turns(2)
        assert caplog.text.count("made to fail") == outages


def test_leases_have_their_turn_while_a_long_log_is_counted(owner, monkeypatch):
    """Else they would run out, another would take the partition, and never come to its end either."""
    monkeypatch.setattr("pushsvc.worker.worker._BREATH", 0)
    monkeypatch.setattr("pushsvc.worker.partition.RUN_BYTES", 1)
    for number in range(100):
        owner.publish("good", x=number)
    turns = []

    def others():
        while True:
            turns.append(1)
            gevent.sleep(1e-6)  # once per turn of the loop

    greenlet = gevent.spawn(others)
    owner.turns()
    greenlet.kill()
    assert owner.told("good") == (100, 100)
    assert len(turns) > 50


def test_events_beyond_the_caps_are_counted(owner):
    before = counted("pushsvc_numbers_ignored_total")
    owner.publish("good", **{f"field-{n}": n for n in range(32)})
    owner.publish("good", one_more=1)
    owner.turns()
    assert counted("pushsvc_numbers_ignored_total") == before + 1


def test_a_window_of_the_last_events_is_rebuilt_though_they_came_long_ago(owner, monkeypatch):
    for number in range(9):
        owner.publish("good", x=number)
    later = owner.broker.time() + 86_400_000
    monkeypatch.setattr(owner.broker, "time", lambda *_: later)
    windows = tuple(map(Window.parse, ("1m", "last 5", "last 3")))
    next_owner = Owner(owner.broker, owner.topics, TopicRules(default=TopicSettings(windows=windows)))
    next_owner.turns()
    assert [owner.told("good", window.name) for window in windows] == [(9, 0), (9, 5), (9, 3)]
    windows = (Window.parse("last 100"),)
    next_owner = Owner(owner.broker, owner.topics, TopicRules(default=TopicSettings(windows=windows)))
    next_owner.turns()
    assert owner.told("good", "last 100") == (9, 9)


def test_the_logs_of_what_is_owned_are_swept_by_the_rules(broker):
    broker.check_layout()
    topics = TopicSettings(windows=(Window.parse("1m"),))
    for number in range(3):
        broker.publish("good", [Event(data={"n": number})], topics)
    worker = AggregatorWorker(broker, TopicRules(default=topics))
    worker._sweeper.round()
    assert counted("pushsvc_log_bytes") == 0, "nothing is owned yet"
    worker._leases.renew()
    worker._sweeper.round()
    assert counted("pushsvc_log_bytes") == len('{"n":0}') * 3
