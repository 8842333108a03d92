"""The content of a topic's log: bounds by count, age and bytes, the needs of windows, and the counted bytes."""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import Mock

import gevent
import pytest

from pushsvc.broker.broker import Broker
from pushsvc.broker.keys import Log
from pushsvc.broker.limits import BrokerLimits
from pushsvc.errors import BrokerFull, Fenced, LogFull, Unavailable
from pushsvc.event import Event
from pushsvc.settings import LOG_FULL_FACTOR, TopicRules, TopicSettings, Window
from pushsvc.topic import partition_of
from pushsvc.web.app import create_app
from pushsvc.worker.ingest import Ingest
from pushsvc.worker.retention import ENTRIES, PERIOD, TOPICS, Sweeper
from support.metrics import metric
from support.owner import neighbours
from support.reference.logs import LOG, PARTITION, Windowless, entries, held, size_of, texts
from support.waiting import until

CHUNK_EVENTS = BrokerLimits().chunk_events


URL = f"/v1/topics/{LOG.topic}/events"


def offsets(broker):
    return [(entry.first, entry.last) for entry in entries(broker)]


@pytest.fixture
def fence(broker):
    return broker.lease([PARTITION], "me", 3_600_000)[PARTITION]


def sweep(broker, fence, settings, most=1_000):
    return broker.sweep({LOG.topic: settings}, fence, most)[LOG.topic]


def refusal(kind, broker, settings, size=100):
    """Publish until a publish fails with an error of the kind; return the error."""
    for number in range(100):
        try:
            broker.publish(LOG.topic, [Event(id=f"id-{number}", data={"t": "x" * size})], settings)
        except kind as refused:
            return refused
    raise AssertionError("every publish was accepted")


def test_the_byte_count_is_exact_after_publishes_trims_and_a_deletion(broker):
    settings = Windowless(retention=2 * CHUNK_EVENTS, retention_bytes=0)
    batches = [texts(3), texts(1, 300), texts(2 * CHUNK_EVENTS + 1)]
    for batch in batches[:2]:
        broker.publish(LOG.topic, batch, settings)
    assert held(broker) == size_of(batches[0]) + size_of(batches[1])
    broker.publish(LOG.topic, batches[2], settings)
    assert offsets(broker)[0] == (5, 4 + CHUNK_EVENTS)
    assert held(broker) == size_of(batches[2]) - 2, "the line ends between two chunks are not stored"
    broker.publish(LOG.topic, [Event(id="a", data={}), Event(id="a", data={})], settings)
    before = held(broker)
    broker.publish(LOG.topic, [Event(id="a", data={})], settings)
    assert held(broker) == before
    assert broker.delete(LOG.topic)
    assert "bytes" not in broker.metadata([LOG])[0]
    broker.publish(LOG.topic, batches[0], settings)
    assert held(broker) == size_of(batches[0])


@pytest.mark.parametrize("bound", [{"retention": 0}, {"retention_bytes": 1}, {"retention": 3}])
def test_a_log_without_windows_keeps_what_retention_says_but_always_the_last_entry(broker, fence, bound):
    settings = TopicSettings(windows=(), **bound)
    for number in range(5):
        broker.publish(LOG.topic, texts(1, 300), settings)
        assert offsets(broker)[-1] == (number + 1, number + 1)
    sweep(broker, fence, settings)
    kept = max(1, bound.get("retention", 0))
    assert offsets(broker) == [(number, number) for number in range(6 - kept, 6)]


def test_the_oldest_entries_beyond_the_byte_bound_are_trimmed(broker):
    one = size_of(texts(1))
    for _ in range(9):
        broker.publish(LOG.topic, texts(1), Windowless(retention_bytes=3 * one))
    assert offsets(broker) == [(7, 7), (8, 8), (9, 9)]
    broker.publish(LOG.topic, texts(2), Windowless(retention_bytes=3 * one + 1))  # plus the line end
    assert offsets(broker) == [(9, 9), (10, 11)]
    assert held(broker) == one + size_of(texts(2))


def test_entries_beyond_the_age_are_trimmed_even_the_last_one(broker, fence):
    settings = Windowless(retention_age=30)
    broker.publish(LOG.topic, texts(1), settings)
    until(lambda: sweep(broker, fence, settings).entries)
    assert entries(broker) == []
    assert held(broker) == 0
    receipt = broker.publish(LOG.topic, texts(2), settings)
    assert (receipt.first_offset, offsets(broker)) == (2, [(2, 3)])
    assert held(broker) == size_of(texts(2))
    until(lambda: broker.time() >= receipt.arrival + 30)
    broker.publish(LOG.topic, texts(1), settings)
    assert offsets(broker) == [(4, 4)], "publishing trims by age too"


@pytest.mark.parametrize(
    "settings", [TopicSettings(retention=1, retention_age=1, retention_bytes=1_000),
                 Windowless(windows=(Window.parse("last 9"),), retention=1, retention_age=1, retention_bytes=1_000)]
)  # fmt: skip
def test_entries_that_windows_need_outlive_every_bound(broker, fence, settings):
    for _ in range(9):
        broker.publish(LOG.topic, texts(1, 200), settings)
    until(lambda: broker.time() > entries(broker)[-1].arrival + 1)
    assert sweep(broker, fence, settings).entries == 0
    assert len(offsets(broker)) == 9


def test_one_call_trims_a_bounded_number_of_entries(broker, fence):
    for _ in range(60):
        broker.publish(LOG.topic, texts(1), TopicSettings())
    broker.publish(LOG.topic, texts(1), Windowless(retention=1))
    assert 20 < len(entries(broker)) < 60
    swept = sweep(broker, fence, Windowless(retention=1), most=5)
    assert (swept.entries, swept.more, swept.bytes) == (5, True, held(broker))
    swept = sweep(broker, fence, Windowless(retention=1))
    assert (swept.more, swept.bytes) == (False, held(broker))
    assert offsets(broker) == [(61, 61)]


def test_a_former_owner_cannot_trim(broker, fence):
    broker.publish(LOG.topic, texts(1), TopicSettings())
    with pytest.raises(Fenced):
        sweep(broker, fence - 1, Windowless(retention=0))
    assert len(entries(broker)) == 1


# The sweeper


def test_the_sweeper_trims_logs_without_publishes(broker, fence):
    for _ in range(2 * ENTRIES + 1):
        broker.publish(LOG.topic, texts(1), TopicSettings())
    before = metric("pushsvc_log_entries_swept_total")
    rules = TopicRules([("orders.*", Windowless(retention=1, retention_bytes=100))])
    Sweeper(broker, rules, dict).round()
    Sweeper(broker, rules, lambda: {PARTITION: fence - 1}).round()
    assert len(entries(broker)) == 2 * ENTRIES + 1, "a process that does not own the partition trims nothing"
    Sweeper(broker, rules, lambda: {PARTITION: fence}).round()
    assert offsets(broker) == [(2 * ENTRIES + 1, 2 * ENTRIES + 1)]
    assert metric("pushsvc_log_entries_swept_total") == before + 2 * ENTRIES
    assert metric("pushsvc_log_bytes") == held(broker)
    assert metric("pushsvc_log_fill_ratio") == held(broker) / (LOG_FULL_FACTOR * 100)


def test_a_round_of_the_sweeper_covers_every_topic(broker, fence):
    names = [name for n in range(10_000) if partition_of(name := f"t{n}") == PARTITION][: 2 * TOPICS + 1]
    for name in names:
        broker.publish(name, texts(3), TopicSettings())
    sweeper = Sweeper(broker, TopicRules([(names[-1], Windowless(retention=0))]), lambda: {PARTITION: fence})
    sweeper.round()
    assert metric("pushsvc_log_bytes") == (len(names) - 1) * size_of(texts(3))
    assert broker.metadata([Log(names[-1])])[0]["bytes"] == "0"


def rounds_until(sweeper, clock, condition, step=15.0):
    """Move the sweeper's clock on by rounds until a condition holds; return the seconds that passed."""
    begun = clock[0]
    while not condition():
        assert clock[0] < begun + 20_000, "the condition never held"
        clock[0] += step
        sweeper.round()
    return clock[0] - begun


@pytest.fixture
def clock(monkeypatch):
    """The monotonic clock of the sweeper, which a test moves."""
    moved = [1_000_000.0]
    monkeypatch.setattr("pushsvc.worker.retention.time", SimpleNamespace(monotonic=lambda: moved[0]))
    return moved


@pytest.fixture
def looked(broker, monkeypatch):
    """The topics that were looked at, in order."""
    names: list[str] = []
    sweep = broker.sweep
    monkeypatch.setattr(broker, "sweep", lambda topics, *rest: names.extend(topics) or sweep(topics, *rest))
    return names


def test_the_sweeper_looks_at_what_changed(broker, fence, clock, looked):
    names = [name for n in range(10_000) if partition_of(name := f"t{n}") == PARTITION][:30]
    for name in names:
        broker.publish(name, texts(3), TopicSettings())
    sweeper = Sweeper(broker, TopicRules(), lambda: {PARTITION: fence})
    sweeper.round()
    assert sorted(looked) == sorted(names)
    looked.clear()
    rounds_until(sweeper, clock, lambda: clock[0] >= 1_010_000)
    assert looked == [], "topics that do not change cost nothing"
    (born,) = neighbours(LOG.topic, 1)
    for name in (names[0], born):
        broker.publish(name, texts(2), TopicSettings())
    broker.delete(names[1])
    held = 29 * size_of(texts(3)) + 2 * size_of(texts(2))
    assert rounds_until(sweeper, clock, lambda: metric("pushsvc_log_bytes") == held) <= 90
    assert sorted(looked) == sorted([names[0], names[1], born])


def test_the_sweeper_looks_again_when_something_goes_by_its_age(broker, fence, clock, looked):
    settings = TopicSettings(windows=(Window.parse("1m"),), retention=1)
    lasting = Windowless(retention_age=3_600_000)
    (beside,) = neighbours(LOG.topic, 1)
    for topic, kept in ((LOG.topic, settings), (beside, lasting)):
        for _ in range(3):
            broker.publish(topic, texts(1), kept)
    sweeper = Sweeper(broker, TopicRules([(LOG.topic, settings), (beside, lasting)]), lambda: {PARTITION: fence})
    sweeper.round()
    looked.clear()
    passed = rounds_until(sweeper, clock, lambda: LOG.topic in looked)
    assert 60 <= passed <= 200
    assert beside not in looked
    assert 3_500 <= passed + rounds_until(sweeper, clock, lambda: beside in looked, 60.0) <= 3_800


def test_the_sweeper_looks_at_topics_that_may_end_in_each_round(broker, fence, clock, looked):
    settings = Windowless(expire_after=3_600_000)
    broker.publish(LOG.topic, texts(1), settings)
    sweeper = Sweeper(broker, TopicRules([(LOG.topic, settings)]), lambda: {PARTITION: fence})
    sweeper.round()
    assert rounds_until(sweeper, clock, lambda: len(looked) == 4) == 3 * PERIOD, (
        "a stream leaves no trace that could be found later"
    )


def test_what_a_failed_round_left_is_swept_by_the_next(broker, fence, monkeypatch):
    for _ in range(3):
        broker.publish(LOG.topic, texts(1), TopicSettings())
    sweeper = Sweeper(broker, TopicRules([(LOG.topic, Windowless(retention=1))]), lambda: {PARTITION: fence})
    monkeypatch.setattr(broker, "sweep", Mock(side_effect=Unavailable("away")))
    with pytest.raises(Unavailable):
        sweeper.round()
    monkeypatch.undo()
    sweeper.round()
    assert offsets(broker) == [(3, 3)]


def test_a_topic_whose_sweep_fails_does_not_hold_up_the_others(broker, fence, clock, looked, caplog):
    """The log of the first of three topics was overwritten with a text, by hand, and is put back later."""
    first, *others = names = sorted([LOG.topic, *neighbours(LOG.topic, 2)])
    for name in names:
        for _ in range(3):
            broker.publish(name, texts(1), TopicSettings())
    broken = broker.keys.log(Log(first))
    for command in (("RENAME", broken, broken + "-aside"), ("SET", broken, "text")):
        broker.connections.command(*command)
    rules = TopicRules([(name, Windowless(retention=1)) for name in names])
    sweeper = Sweeper(broker, rules, lambda: {PARTITION: fence})
    before = metric("pushsvc_sweeps_failed_total")
    sweeper.round()
    for name in others:
        assert [entry.first for entry in entries(broker, Log(name))] == [3]
    assert metric("pushsvc_sweeps_failed_total") == before + 1
    pauses = []
    for _ in range(7):
        looked.clear()
        pauses.append(rounds_until(sweeper, clock, lambda: first in looked))
    for passed, pause in zip(pauses, [30, 60, 120, 240, 480, 900, 900], strict=True):
        assert pause <= passed <= pause + 2 * PERIOD
    assert metric("pushsvc_sweeps_failed_total") == before + 8
    broker.publish(others[0], texts(1), TopicSettings())
    rounds_until(sweeper, clock, lambda: others[0] in looked)
    [line] = [record.message for record in caplog.records if "tried again later" in record.message]
    assert f"the first is {first!r}: Redis answered: WRONGTYPE" in line
    broker.connections.command("RENAME", broken + "-aside", broken)
    rounds_until(sweeper, clock, lambda: len(entries(broker, Log(first))) == 1)
    failed = metric("pushsvc_sweeps_failed_total")
    broker.publish(first, texts(1), TopicSettings())
    looked.clear()
    assert rounds_until(sweeper, clock, lambda: first in looked) <= 90, "the pause has ended"
    assert metric("pushsvc_sweeps_failed_total") == failed


def test_newest_events_that_find_no_memory_do_not_hold_up_the_trims_that_free_it(start_redis):
    with closing(Broker(start_redis(maxmemory="3mb").url)) as broker:
        fence = broker.lease([PARTITION], "me", 60_000)[PARTITION]
        first, beside = sorted([LOG.topic, *neighbours(LOG.topic, 1)])
        keys = [Event(key=f"k{number}", data={"t": "x" * 2_000}) for number in range(100)]
        for settings in (TopicSettings(latest=True), TopicSettings()):
            broker.publish(first, keys, settings)
        for size in (100_000, 1_000, 10):
            with suppress(BrokerFull):
                while True:
                    broker.publish(beside, texts(1, size), TopicSettings())
        rules = TopicRules([(first, TopicSettings(latest=True)), (beside, Windowless(retention=1))])
        with pytest.raises(BrokerFull):
            broker.latest.fill(first, TopicSettings(latest=True))
        Sweeper(broker, rules, lambda: {PARTITION: fence}).round()
        assert len(entries(broker, Log(beside))) == 1


def test_after_a_failover_every_topic_is_looked_at(broker, fence, looked):
    broker.publish(LOG.topic, texts(1), TopicSettings())
    sweeper = Sweeper(broker, TopicRules(), lambda: {PARTITION: fence})
    sweeper.round()
    broker.connections.command("HSET", broker.keys.partition(PARTITION), "epoch", "77")
    sweeper.round()
    assert looked == [LOG.topic] * 2


def test_the_sweeper_frees_memory_of_a_full_redis(start_redis):
    with closing(Broker(start_redis(maxmemory="3mb").url)) as broker:
        fence = broker.lease([PARTITION], "me", 60_000)[PARTITION]
        refusal(BrokerFull, broker, TopicSettings(), size=100_000)
        assert sweep(broker, fence, Windowless(retention=2)).entries > 2
        assert len(entries(broker)) == 2
        held(broker)
        broker.publish(LOG.topic, texts(1), TopicSettings())


# A full log

TIGHT = replace(TopicSettings(), retention_bytes=1_000)


def test_a_full_log_that_windows_need_refuses_events(broker):
    refused = refusal(LogFull, broker, TIGHT)
    before = held(broker)
    assert LOG_FULL_FACTOR * 1_000 <= before < LOG_FULL_FACTOR * 1_000 + 150
    assert "windows" in refused.detail
    assert refused.retry_after == 60
    last = entries(broker)[-1].last
    again = broker.publish(LOG.topic, [Event(id="id-3", data={"t": ""})], TIGHT)
    assert (again.duplicates, again.first_offset) == (1, 4), "a known event still gets its answer"
    assert (entries(broker)[-1].last, held(broker)) == (last, before)


def test_a_full_log_accepts_events_again_once_it_can_be_trimmed(broker):
    refusal(LogFull, broker, TIGHT)
    count = len(entries(broker))
    broker.publish(LOG.topic, texts(1), replace(Windowless(), retention_bytes=1_000))
    assert len(entries(broker)) < count
    assert held(broker) <= 1_000


def test_a_full_log_names_the_time_to_wait(broker):
    refused = refusal(LogFull, broker, Windowless(kept=3_000, retention_bytes=100))
    assert 1 <= refused.retry_after <= 3


def test_a_log_without_a_byte_bound_is_never_full(broker):
    settings = replace(TopicSettings(), retention_bytes=0)
    for _ in range(20):
        broker.publish(LOG.topic, texts(1, 1_000), settings)
    assert len(entries(broker)) == 20


def test_a_publish_to_a_full_log_is_answered_with_503_and_stores_nothing(broker):
    client = create_app(broker, TopicRules(default=TIGHT)).test_client()
    before = metric("pushsvc_publish_unavailable_total", problem="log-full")
    stored = 0
    while (answer := client.post(URL, json={"t": "x" * 500})).status_code == 202:
        stored += 1
    assert answer.status_code == 503
    assert answer.content_type == "application/problem+json"
    assert answer.json["type"] == "urn:pushsvc:problem:log-full"
    assert "retention_bytes" in answer.json["detail"]
    assert 0 < int(answer.headers["Retry-After"]) <= 60
    assert metric("pushsvc_publish_unavailable_total", problem="log-full") == before + 1
    metadata = client.get(f"/v1/topics/{LOG.topic}").json
    assert (metadata["last_offset"], metadata["bytes"]) == (stored, held(broker))
    assert (metadata["refused"], metadata["last_refusal"]) == (1, answer.json["detail"])


def test_ingested_messages_for_a_full_log_are_dropped_and_metric(broker, fence):
    refusal(LogFull, broker, TIGHT)
    before = metric("pushsvc_ingest_log_full_total"), metric("pushsvc_ingest_dropped_total")
    ingest = Ingest(broker, TopicRules(default=TIGHT), lambda partition: fence)
    ingest.offer(LOG.topic, b'{"t":1}')
    greenlet = gevent.spawn(ingest.run)
    with gevent.Timeout(10):
        while metric("pushsvc_ingest_log_full_total") == before[0]:
            gevent.sleep(0.001)
    greenlet.kill()
    assert metric("pushsvc_ingest_dropped_total") == before[1]
    assert broker.metadata([LOG])[0]["refused"] == "1"


# Reads from before the trimmed part


@pytest.mark.parametrize("kind", ["json", "ndjson", "csv"])
def test_a_page_that_misses_trimmed_events_says_so(broker, fence, kind):
    client = create_app(broker).test_client()
    for _ in range(6):
        client.post(URL, json={"n": 1})
    page = client.get(URL + "?limit=2")
    assert "trimmed" not in page.json
    sweep(broker, fence, Windowless(retention=4))
    follows = f"{URL}?limit=2&format={kind}&after={page.json['next']}"
    whole = client.get(follows)
    assert "Pushsvc-Trimmed" not in whole.headers, "the trimmed events were on the previous page"
    sweep(broker, fence, Windowless(retention=2))
    cut = client.get(follows)
    assert cut.headers["Pushsvc-Trimmed"] == "5"
    if kind == "json":
        assert (cut.json["trimmed"], cut.json["first_offset"]) == (True, 5)
        assert [event["$offset"] for event in cut.json["events"]] == [5, 6]
    sweep(broker, fence, Windowless(retention=0))
    assert client.get(follows).headers["Pushsvc-Trimmed"] == "7"
    assert "Pushsvc-Trimmed" not in client.get(URL).headers, "a first page misses nothing"


def test_a_stream_that_misses_trimmed_events_is_reset(stack, topic):
    stack.start_web()
    broker = Broker(stack.redis_url, stack.prefix)
    try:
        log = Log(topic)
        fence = broker.lease([log.partition], "me", 3_600_000)[log.partition]
        for number in range(5):
            stack.post(topic, {"n": number})
        with stack.stream(f"/v1/topics/{topic}/events?last_event_id=earliest") as stream:
            cursors = [stream.next().id for _ in range(2)]
        broker.sweep({topic: Windowless(retention=3)}, fence, 100)
        with stack.stream(f"/v1/topics/{topic}/events?last_event_id={cursors[1]}") as stream:
            assert stream.frame()[1]["$offset"] == 3, "the client has the trimmed events already"
        broker.sweep({topic: Windowless(retention=1)}, fence, 100)
        with stack.stream(f"/v1/topics/{topic}/events?last_event_id={cursors[1]}") as stream:
            assert stream.frame() == ("reset", {"topic": topic, "reason": "trimmed"})
            assert stream.frame()[1]["$offset"] == 5
    finally:
        broker.close()
