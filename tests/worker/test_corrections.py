"""An owner counts corrected topics again: its frames are those of a log with the current forms alone."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from pushsvc.broker.keys import Log
from pushsvc.event import Event
from pushsvc.settings import TopicRules, TopicSettings
from pushsvc.stats.window import Window
from support.owner import Owner, lease, neighbours
from support.waiting import until

TOPIC = "corrected"
WHOLE = TopicSettings(
    windows=tuple(map(Window.parse, ("1m", "5m", "last 7"))),
    values=("place",),
    statistics=("p50", "p95", "distinct", "top3", "first", "last"),
)

# On a busy machine shards take longer to start than events stay in a window of a minute.
LASTING = tuple(map(Window.parse, ("2h", "1d", "last 7")))
SHARDED = TopicSettings(windows=LASTING[:2], key=("key", "place"), statistics=("p50", "p95"))


@pytest.fixture
def owner(broker):
    broker.check_layout()
    made = Owner(broker, [TOPIC])
    made.worker._policy = replace(made.worker._policy, recount_interval=0.0)
    return made


def correct(owner, name, event):
    settings = owner.rules.settings_of(TOPIC)
    found = owner.broker.corrections.find(TOPIC, name)
    assert owner.broker.corrections.correct(TOPIC, settings, found, event)


def test_statistics_become_what_they_would_have_been(owner):
    for value in (1, 2, 30):
        owner.publish(TOPIC, value=value)
    owner.step()
    assert owner.rows(TOPIC)[None, "value"][2:6] == [3, 0.05, 33.0, 11.0]
    correct(owner, "$3", Event(key="k", data={"value": 3}))
    owner.step()
    assert owner.rows(TOPIC)[None, "value"][2:8] == [3, 0.05, 6.0, 2.0, 1.0, 3.0]
    correct(owner, "$3", Event(key="other", data={"value": 3}))
    correct(owner, "$1", None)
    owner.step()
    assert owner.rows(TOPIC)[None, "value"][2:8] == [2, 2 / 60, 5.0, 2.5, 2.0, 3.0]
    assert owner.rows(TOPIC)["other", "value"][2] == owner.rows(TOPIC)["k", "value"][2] == 1
    owner.publish(TOPIC, value=10)
    owner.step()
    assert owner.rows(TOPIC)[None, "value"][4] == 15.0
    assert owner.frames(TOPIC)[-1].source == 7


def test_a_frame_between_a_correction_and_the_recount_is_pending(owner):
    owner.worker._policy = replace(owner.worker._policy, recount_interval=3_600.0)
    owner.publish(TOPIC, value=1)
    owner.step()
    owner.partition.recounted_at = float("inf")
    correct(owner, "$1", Event(key="k", data={"value": 2}))
    owner.publish(TOPIC, value=1)
    owner.step()
    assert owner.frames(TOPIC)[-1].frame["pending"]
    owner.partition.recounted_at = 0.0
    owner.worker._policy = replace(owner.worker._policy, recount_interval=0.0)
    owner.step()
    assert "pending" not in owner.frames(TOPIC)[-1].frame
    assert owner.rows(TOPIC)[None, "value"][4] == 3.0


def test_a_long_log_is_counted_again_in_slices_while_frames_go_on(owner, monkeypatch):
    for number in range(400):
        owner.publish(TOPIC, value=number)
    owner.step()
    read = owner.broker.read
    monkeypatch.setattr(
        owner.broker, "read", lambda *of, **how: read(*of, **how, **({"budget": 1} if "current" in how else {}))
    )
    correct(owner, "$1", Event(key="k", data={"value": 1000}))
    owner.step(5)
    assert TOPIC in owner.partition.recounts
    owner.publish(TOPIC, value=5)
    until(lambda: owner.step(1) or owner.frames(TOPIC)[-1].source == 402)
    assert owner.frames(TOPIC)[-1].frame["pending"]
    until(lambda: owner.step(10) or not owner.partition.recounts)
    assert owner.rows(TOPIC)[None, "value"][4] == sum(range(400)) + 1000 + 5


def test_a_successor_counts_corrections_that_its_predecessor_had_only_read(owner):
    for value in (1, 2):
        owner.publish(TOPIC, value=value)
    owner.step()
    owner.take_checkpoint()
    owner.partition.recounted_at = float("inf")
    correct(owner, "$1", None)
    owner.publish(TOPIC, value=4)
    owner.step()
    owner.take_checkpoint()
    successor = Owner(owner.broker, [TOPIC])
    until(lambda: successor.step() or successor.rows(TOPIC)[None, "value"][4] == 6.0)
    successor.take_checkpoint()
    correct(successor, "$2", None)
    third = Owner(owner.broker, [TOPIC])
    until(lambda: third.step() or third.rows(TOPIC)[None, "value"][4] == 4.0)


def test_other_topics_of_the_partition_are_not_affected(broker):
    broker.check_layout()
    owner = Owner(broker, ["good", *neighbours("good", 1)])
    good, bad = owner.topics
    for topic in (good, bad):
        owner.publish(topic, x=1)
        owner.publish(topic, x=2)
    owner.step()
    frames = len(owner.frames(good))
    settings = owner.rules.settings_of(bad)
    broker.corrections.correct(bad, settings, broker.corrections.find(bad, "$1"), None)
    until(lambda: owner.step() or owner.totals(bad) == (3, 1))
    assert len(owner.frames(good)) == frames
    owner.publish(good, x=3)
    owner.step()
    assert owner.totals(good) == (3, 3)


def test_a_topic_is_counted_in_its_place_without_room_for_a_second_time(owner):
    owner.publish(TOPIC, value=1)
    owner.step()
    owner.worker.room.cells.held += owner.worker.room.cells.limit // 2 + 1
    correct(owner, "$1", Event(key="k", data={"value": 2}))
    until(lambda: owner.step() or owner.rows(TOPIC)[None, "value"][4] == 2.0)


@pytest.mark.parametrize("clock", ["wall", "event"])
@pytest.mark.parametrize("seed", range(3))
def test_all_statistics_equal_those_of_the_surviving_events(broker, clock, seed):
    """Random publishes, corrections and takeovers; the reference is a topic to which only the last forms were ever
    published, in the same entries and at the same times."""
    windows = LASTING if clock == "wall" else WHOLE.windows
    compare_with_survivors(broker, replace(WHOLE, clock=clock, windows=windows), seed)


@pytest.mark.parametrize("parts", [2, 3])
@pytest.mark.parametrize("seed", range(2))
def test_all_statistics_of_a_topic_with_parts_equal_those_of_the_surviving_events(broker, parts, seed):
    """The corrections of a key are counted by another shard if they change the key."""
    compare_with_survivors(broker, replace(SHARDED, parts=parts), seed)


def compare_with_survivors(broker, settings, seed):
    broker.check_layout()
    rules = TopicRules(((">", settings),))
    chance = random.Random(seed)
    owner = Owner(broker, [TOPIC], rules=rules)
    owner.worker._policy = replace(owner.worker._policy, recount_interval=0.0)
    now = broker.time(0)
    alive: dict[int, Event | None] = {}
    entries: list[list[int]] = []

    def event():
        return Event(
            key=chance.choice("abc"), time=now - chance.randrange(10_000),
            data={"value": chance.choice((chance.random() * 1e9, chance.randrange(5))), "place": chance.choice("xyz")},
        )  # fmt: skip

    for _ in range(60):
        match chance.choice(("publish", "publish", "patch", "delete", "step", "takeover")):
            case "publish":
                events = [event() for _ in range(chance.randrange(1, 5))]
                receipt = broker.publish(TOPIC, events, rules.settings_of(TOPIC))
                entries.append(list(range(receipt.first_offset, receipt.last_offset + 1)))
                alive.update(zip(entries[-1], events, strict=True))
            case "patch" if any(alive.values()):
                at = chance.choice([offset for offset, one in alive.items() if one is not None])
                alive[at] = event()
                correct(owner, f"${at}", alive[at])
            case "delete" if any(alive.values()):
                at = chance.choice([offset for offset, one in alive.items() if one is not None])
                alive[at] = None
                correct(owner, f"${at}", None)
            case "step":
                owner.step()
            case "takeover":
                owner.take_checkpoint()
                owner.worker.drop(owner.number)
                owner.worker.adopt(owner.number, lease(broker, owner.number))
    until(lambda: owner.step() or not (owner.partition.recounts or owner.partition.corrected))
    owner.step()
    reference = next(name for n in range(100_000) if Log(name := f"reference-{n}").partition == owner.number)
    for offsets in entries:
        events = [one for offset in offsets if (one := alive[offset]) is not None]
        if events:
            broker.publish(reference, events, rules.settings_of(reference))
    plain = Owner(broker, [reference], rules=rules)
    plain.step()
    for window in (one.name for one in settings.windows):
        assert _snapshot(owner, TOPIC, window) == _snapshot(plain, reference, window)
    for one in (owner, plain):
        one.worker.drop(one.number)  # ends its shards


def _snapshot(owner, topic, window):
    engine = owner.partition.topics[topic].engine.engine
    engine.resume(topic, window)
    return sorted(engine.snapshot(topic, window).rows, key=repr)
