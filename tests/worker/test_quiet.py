"""Topics whose statistics nobody watches: they are brought up together, and rarely."""

import time
from contextlib import contextmanager

import gevent
import pytest

from pushsvc.broker.keys import Log
from pushsvc.broker.reply_reader import ReplyReader
from pushsvc.event import Event
from pushsvc.settings import TopicRules, TopicSettings
from pushsvc.worker.policy import WorkerPolicy
from pushsvc.worker.worker import AggregatorWorker, QuietPace
from support.owner import HOUR, Owner, neighbours
from support.stack import client_of
from support.waiting import until

RESTING = WorkerPolicy(quiet_share=1e-9, quiet_pause=3_600.0)
"""After their first turn quiet topics rest for an hour."""


@pytest.fixture
def topics():
    return ["good", *neighbours("good", 3)]


@contextmanager
def subscribed(broker, redis_url, topic, window="1m"):
    """Subscribe to the frames of a window, as a web process does for a stream."""
    subscription = client_of(redis_url).pubsub()
    channel = broker.keys.log_channel(Log(topic, window))
    if broker.publish_command == "SPUBLISH":
        subscription.ssubscribe(channel)
    else:
        subscription.subscribe(channel)
    until(lambda: subscription.get_message(timeout=0.1))
    try:
        yield
    finally:
        subscription.close()


def bring_up(owner, *topics):
    """Notify the owner of new events of topics; let it take a turn."""
    for topic in topics:
        owner.partition.add_unread(topic)
    owner.worker.step()


def test_a_rest_is_a_share_of_the_work_and_bounded():
    pace = QuietPace(0.2, 0.5)
    for took, rest in ((0.05, 0.2), (0.125, 0.5), (9.0, 0.5), (0.0, 0.0)):
        before = time.monotonic()
        pace.rest(took, wanted=True)
        assert before + rest <= pace.until <= time.monotonic() + rest
    before = time.monotonic()
    pace.rest(0.0, wanted=False)
    assert before + 0.5 <= pace.until <= time.monotonic() + 0.5


def test_quiet_topics_rest_while_a_watched_one_is_brought_up_at_once(broker, redis_url, topics):
    broker.check_layout()
    watched, quiet, beside, _ = topics
    owner = Owner(broker, topics, policy=RESTING)
    with subscribed(broker, redis_url, watched):
        owner.publish(watched, x=1)
        owner.publish(quiet, x=1)
        bring_up(owner, watched, quiet)
        owner.publish(quiet, x=2)
        bring_up(owner, quiet)
        assert owner.totals(quiet) == (1, 1)
        owner.publish(watched, x=2)
        owner.publish(beside, x=1)
        bring_up(owner, watched, beside)
        assert owner.totals(watched) == (2, 2)
        # The clock of an engine moves when all that arrived before is counted, so these were read too.
        assert owner.totals(beside) == (1, 1)
        assert owner.partition.topics[quiet].counts.offset == 2


def test_a_topic_that_lost_its_subscriber_rests(broker, redis_url, topics):
    broker.check_layout()
    owner = Owner(broker, topics, policy=RESTING)
    with subscribed(broker, redis_url, "good"):
        owner.publish("good", x=1)
        bring_up(owner, "good")
        assert owner.partition.watched == {"good": {"1m"}}
    channel = broker.keys.log_channel(Log("good", "1m"))
    command = "SHARDNUMSUB" if broker.publish_command == "SPUBLISH" else "NUMSUB"
    until(lambda: broker.connections.at(channel).command("PUBSUB", command, channel)[1] == 0)
    owner.publish("good", x=2)
    bring_up(owner, "good")
    owner.publish("good", x=3)
    bring_up(owner, "good")
    offset, _ = owner.totals("good")
    assert owner.partition.watched == {}
    bring_up(owner, "good")
    assert owner.totals("good")[0] == offset


def test_resting_topics_are_counted_without_a_further_notification(broker):
    broker.check_layout()
    policy = WorkerPolicy(quiet_share=1e-9, quiet_pause=0.1, poll_interval=3_600.0)
    worker = AggregatorWorker(broker, TopicRules(), policy=policy)
    running = gevent.spawn(worker.run)
    owned = worker.partitions
    until(lambda: len(owned) == 64 and all(one.loaded for one in owned.values()), sleep=gevent.sleep, seconds=20)
    logs = [Log(f"t{topic}", "1m") for topic in range(20)]
    broker.demand.ask(logs, unborn=True)
    for number in range(1, 4):
        for topic in range(20):
            broker.publish(f"t{topic}", [Event(data={"n": number})], TopicSettings())
        until(lambda n=number: all(int(one.get("source", 0)) == n for one in broker.metadata(logs)), sleep=gevent.sleep)
    worker.stop()
    running.join(60)
    assert running.successful()


def test_notifications_of_quiet_topics_are_read_together(broker, monkeypatch):
    """Each of them would wake the process, though what it is about waits for the next turn anyway."""
    broker.check_layout()
    worker = AggregatorWorker(broker, TopicRules(), policy=WorkerPolicy(reading_pause=0.05))
    received = []
    receive = ReplyReader._receive
    monkeypatch.setattr(ReplyReader, "_receive", lambda reader: received.append(reader) or receive(reader))
    running = gevent.spawn(worker.run)
    owned = worker.partitions
    until(lambda: len(owned) == 64 and all(one.loaded for one in owned.values()), sleep=gevent.sleep, seconds=20)
    for _ in range(3):  # a topic is quiet once it was counted and nobody asked for it
        broker.publish("t", [Event(data={"n": 1})], TopicSettings())
        gevent.sleep(0.1)
    received.clear()
    begun = time.monotonic()
    for _ in range(300):
        broker.publish("t", [Event(data={"n": 1})], TopicSettings())
        gevent.sleep(0.001)
    took = time.monotonic() - begun
    worker.stop()
    running.join(60)
    assert running.successful()
    assert len(received) <= took / 0.05 + 20


def test_a_lost_notification_is_found_and_nothing_is_read_twice_for_it(broker, topics, monkeypatch):
    broker.check_layout()
    owner = Owner(broker, topics)
    for topic in topics:
        owner.publish(topic, x=1)
    owner.step()
    owner.partition.unsure = True
    owner.worker.step()  # learns up to where nothing was lost
    asked, read = [], broker.read

    def note(partition, logs, **options):
        asked.extend(of.name for of in logs)
        return read(partition, logs, **options)

    monkeypatch.setattr(broker, "read", note)
    owner.publish(topics[2], x=2)
    late = neighbours("good", 5)[-1]
    owner.publish(late, x=1)
    owner.publish(topics[1], x=2)
    bring_up(owner, topics[1])
    assert asked == [topics[1]]
    owner.partition.unsure = True
    owner.worker.step()
    assert sorted(asked[1:]) == sorted([topics[2], late])
    owner.partition.ask(Log(late, "1m").name, HOUR)
    owner.worker.step()
    assert owner.totals(late) == (1, 1)
    broker.delete(topics[3])
    owner.partition.unsure = True
    owner.worker.step()
    assert topics[3] not in owner.partition.topics


def test_many_new_topics_are_opened_with_few_round_trips(broker, monkeypatch):
    broker.check_layout()
    topics = neighbours("good", 200)
    owner = Owner(broker, topics)
    for topic in topics:
        owner.publish(topic, x=1)
        owner.publish(topic, x=2)
    calls = []
    for name in ("metadata", "time", "seek_arrival", "read"):
        real = getattr(broker, name)
        monkeypatch.setattr(broker, name, lambda *a, _of=name, _real=real, **o: calls.append(_of) or _real(*a, **o))
    owner.step(1)
    assert calls == ["time", "metadata", "time", "read"], "the first is of the takeover"
    monkeypatch.undo()
    for topic in topics:
        for window in ("1m", "5m", "15m"):
            assert [entry.kind for entry in owner.frames(topic, window)] == ["s"]
            assert owner.totals(topic, window) == (2, 2)


def test_a_topic_without_windows_has_no_engine(broker, topics):
    broker.check_layout()
    rules = TopicRules([(topics[1], TopicSettings(windows=()))])
    owner = Owner(broker, topics[:2], rules)
    for topic in topics[:2]:
        owner.publish(topic, x=1)
    owner.step()
    assert list(owner.partition.topics) == ["good"]


def test_a_new_owner_begins_with_whole_snapshots(broker, topics, monkeypatch):
    """Until it has passed its predecessor's frames it drops its own. So its first frame may be no update."""
    broker.check_layout()
    rules = TopicRules(default=TopicSettings(idle_cadence=0))
    owner = Owner(broker, topics, rules)
    for number in range(4):
        owner.publish_all("good", [Event(key=f"k{number}", data={"x": number})])
    owner.step()
    successor, read = Owner(broker, topics, rules), broker.read
    monkeypatch.setattr(broker, "read", lambda partition, logs, **how: read(partition, logs, budget=1, **how))
    before = len(successor.frames("good"))
    offsets = []
    for _ in range(4):
        successor.worker.step()
        offsets.append(successor.partition.topics["good"].counts.offset)
    assert offsets == [1, 2, 3, 4], "one entry is read at a time"
    monkeypatch.undo()
    entry = successor.frames("good")[before]
    assert (entry.kind, entry.source) == ("s", 4)
    assert {row[0] for row in entry.frame["data"]} == {None, "k0", "k1", "k2", "k3"}
