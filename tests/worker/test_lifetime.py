"""The window ``all`` counts every event since its topic began, exactly once, whatever happens to owners and logs."""

from __future__ import annotations

import random
from dataclasses import replace
from math import ceil

import pytest

from pushsvc.broker.keys import Log
from pushsvc.event import Event
from pushsvc.settings import TopicRules, TopicSettings
from pushsvc.stats.window import Window
from pushsvc.worker.policy import WorkerPolicy
from support.owner import EAGER, UNBOUNDED, Owner
from support.waiting import until

TOPIC = "lived"
SETTINGS = TopicSettings(
    windows=tuple(map(Window.parse, ("1m", "all"))), statistics=("p50", "p95"), cadence=0, idle_cadence=0
)


def owner_of(broker, settings=SETTINGS):
    """Return a new owner of the topic's partition, which fences the one before."""
    broker.check_layout()
    made = Owner(broker, [TOPIC], TopicRules([(TOPIC, settings)]))
    made.worker.lifetimes._policy = replace(made.policy, lifetime_recount_interval=0.0)
    made.worker.lifetimes._writer._policy = EAGER
    return made


def save(owner):
    """Write the record of the window."""
    owner.worker.lifetimes.poll(owner.worker.partitions.values())
    assert owner.worker.lifetimes._writer.wait(60)


def trim(broker, count):
    """Remove all entries of the log but the last ones, as retention does; return its first offset."""
    log = Log(TOPIC)
    name = broker.keys.log(log)
    entries = broker.connections.command("XREVRANGE", name, "+", "-", "COUNT", count)
    if not entries:
        return 1
    oldest = entries[-1][1][1].split()
    broker.connections.command("XTRIM", name, "MINID", entries[-1][0])
    broker.connections.command(
        "HSET", broker.keys.metadata(log), "first", oldest[1], "trimmed", int(oldest[0]) - 1, "trimmed_arrival", 0
    )  # fmt: skip
    return int(oldest[1])


def frame(owner):
    """Return the head of the newest frame, and the rows of the window."""
    *_, newest = owner.frames(TOPIC, "all")
    return newest.frame, owner.rows(TOPIC, "all")


def folded(events):
    """Return the rows of a plain fold over events: count, sum, mean, min and max."""
    found = {}
    for event in events:
        for key in (None, event.key):
            found.setdefault((key, None), []).append(None)
            for name, value in event.data.items():
                found.setdefault((key, name), []).append(value)
    return {
        name: (len(values), float(sum(values)), sum(values) / len(values), min(values), max(values))
        if values[0] is not None
        else (len(values), None, None, None, None)
        for name, values in found.items()
    }


def plain(rows):
    return {name: (row[2], *row[4:8]) for name, row in rows.items()}


def test_every_event_counts_once_whatever_its_time(broker):
    owner = owner_of(broker)
    events = [Event(key="k", time=time, data={"n": n}) for n, time in enumerate((1, 10**12, 86_400_000))]
    owner.publish_all(TOPIC, events)
    owner.step()
    head, rows = frame(owner)
    assert plain(rows) == folded(events)
    assert head["columns"] == list(SETTINGS.columns)
    assert (head["offset"], "gap" in head, "approximate" in head) == (3, False, False)
    assert head["from"].startswith("1970-01-01T00:00:00.001")
    assert rows[None, "n"][3] is None


def correct(owner, name, event):
    found = owner.broker.corrections.find(TOPIC, name)
    assert owner.broker.corrections.correct(TOPIC, owner.rules.settings_of(TOPIC), found, event)


@pytest.mark.parametrize("seed", range(8))
def test_totals_are_those_of_a_plain_fold(broker, seed):
    """Events are published and corrected, logs are trimmed, owners stop, are fenced or lose their checkpoints, settings
    change. Each new owner begins with the last record and the log after it."""
    chance = random.Random(seed)
    settings, owner = SETTINGS, owner_of(broker)
    events, last, first = {}, 0, 1
    actions = ("publish", "publish", "publish", "correct", "step", "save", "trim", "takeover", "settings", "lost")
    for _ in range(60):
        action = chance.choice(actions)
        if action == "publish":
            batch = [random_event(chance) for _ in range(chance.randrange(1, 30))]
            owner.publish_all(TOPIC, batch)
            events |= dict(enumerate(batch, last + 1))
            last += len(batch)
        elif action == "correct":
            if corrected := [offset for offset in events if offset >= first]:
                offset = chance.choice(corrected)
                changed = chance.choice((None, random_event(chance)))
                correct(owner, f"${offset}", changed)
                last += 1
                events[offset] = changed
                if changed is None:
                    del events[offset]
        elif action == "step":
            owner.step()
        elif action == "save":
            owner.step()
            save(owner)
        elif action == "trim":
            owner.step()
            save(owner)
            first = max(first, trim(broker, 3))
        else:
            if action == "settings":
                windows = chance.choice((("all",), ("1m", "all"), ("5m", "10m", "all")))
                settings = replace(settings, windows=tuple(map(Window.parse, windows)), cadence=chance.randrange(5))
            if action == "lost":
                broker.connections.command("DEL", broker.keys.checkpoints(owner.number))
            owner = owner_of(broker, settings)
    owner = owner_of(broker, settings)
    owner.step(8)
    head, rows = frame(owner)
    assert head["offset"] == last
    assert "gap" not in head
    check(rows, list(events.values()), exact="approximate" not in head)


def random_event(chance):
    data = {"n": chance.randrange(-50, 50)}
    if chance.random() < 0.3:
        data["m"] = chance.randrange(2**50)
    return Event(key=f"k{chance.randrange(5)}", time=chance.choice((None, chance.randrange(1, 10**12))), data=data)


def check(rows, events, *, exact):
    """Compare rows with a plain fold over events; minimum, maximum and quantiles only if they are ``exact``."""
    expected = folded(events)
    assert rows.keys() == expected.keys()
    for name, row in rows.items():
        assert (row[2], *row[4:6]) == expected[name][:3]
        if not exact:
            continue
        assert tuple(row[6:8]) == expected[name][3:]
        values = sorted(one.data[name[1]] for one in events if name[1] in one.data and name[0] in (None, one.key))
        for percent, quantile in zip((50, 95), row[9:11], strict=True):
            assert not values or quantile == pytest.approx(values[ceil(percent * len(values) / 100) - 1], rel=1 / 128)


def never_again(owner):
    """Let no topic be counted again for a while."""
    owner.worker.lifetimes._policy = replace(owner.policy, lifetime_recount_interval=UNBOUNDED)


@pytest.mark.parametrize("recounted", [False, True])
def test_corrections_are_taken_out_and_counted_anew(broker, recounted):
    """Count, sum and mean change at once. The rest is exact after another count; until then it is said not to be."""
    owner = owner_of(broker)
    if not recounted:
        never_again(owner)
    events = [Event(key=f"k{n % 2}", data={"n": n}) for n in range(10)]
    for event in events:
        owner.publish_all(TOPIC, [event])
    owner.step()
    save(owner)
    correct(owner, "$10", Event(key="k0", data={"n": -9}))
    correct(owner, "$3", None)
    owner = owner_of(broker)
    if not recounted:
        never_again(owner)
    owner.step()
    events[9] = Event(key="k0", data={"n": -9})
    del events[2]
    head, rows = frame(owner)
    expected = folded(events)
    assert {name: row[:3] for name, row in plain(rows).items()} == {name: row[:3] for name, row in expected.items()}
    if recounted:
        assert plain(rows) == expected
        assert "approximate" not in head
    else:
        assert head["approximate"] == ["corrections"]


def test_a_correction_is_counted_once_however_late_its_event_is_read(broker):
    owner = owner_of(broker)
    never_again(owner)
    owner.publish(TOPIC, n=1)
    owner.publish(TOPIC, n=2)
    correct(owner, "$1", Event(key="k", data={"n": 10}))
    owner.step()
    _, rows = frame(owner)
    assert rows[None, "n"][2:5:2] == [2, 12]


def test_erased_events_do_not_count(broker):
    owner = owner_of(broker)
    for n in range(4):
        owner.publish(TOPIC, n=n)
    owner.step()
    correct(owner, "$2", None)
    found = broker.corrections.find(TOPIC, "$2")
    broker.corrections.erase(TOPIC, owner.rules.settings_of(TOPIC), found)
    owner.step(8)
    head, rows = frame(owner)
    assert rows[None, "n"][2:5:2] == [3, 5]
    assert "approximate" not in head


def test_what_the_log_lost_is_said(broker):
    owner = owner_of(broker)
    owner.publish(TOPIC, n=1)
    owner.step()
    save(owner)
    owner.publish(TOPIC, n=2)
    owner.publish(TOPIC, n=4)
    trim(broker, 1)
    owner = owner_of(broker)
    owner.step()
    head, rows = frame(owner)
    assert rows[None, "n"][2:5:2] == [2, 5]
    assert head["gap"] == 2
    save(owner)
    owner = owner_of(broker)
    owner.publish(TOPIC, n=8)
    owner.step()
    head, rows = frame(owner)
    assert (head["gap"], rows[None, "n"][4]) == (2, 13)


def test_a_log_that_is_there_already_counts_from_its_first_event(broker):
    owner = owner_of(broker, replace(SETTINGS, windows=SETTINGS.windows[:1]))
    for n in (1, 2, 4):
        owner.publish(TOPIC, n=n)
    owner.step()
    assert owner.partition.lifetime is None
    trim(broker, 2)
    owner = owner_of(broker)
    owner.step()
    head, rows = frame(owner)
    assert (head["gap"], rows[None, "n"][4]) == (1, 6)


def test_record_ends_with_its_topic(broker):
    owner = owner_of(broker)
    owner.publish(TOPIC, n=1)
    owner.step()
    save(owner)
    assert TOPIC in broker.lifetimes.headers(owner.number)[1]
    assert broker.delete(TOPIC)
    owner.step()
    save(owner)
    assert broker.connections.command("KEYS", f"{broker.keys.prefix}*lifetime*") == []
    owner.publish(TOPIC, n=5)
    owner.step()
    assert plain(frame(owner)[1])[None, "n"][:2] == (1, 5)


def test_record_of_a_deleted_topic_is_not_that_of_its_successor(broker):
    owner = owner_of(broker)
    owner.publish(TOPIC, n=1)
    owner.step()
    save(owner)
    broker.delete(TOPIC)
    owner.publish(TOPIC, n=5)
    owner = owner_of(broker)
    owner.step()
    head, rows = frame(owner)
    assert plain(rows)[None, "n"][:2] == (1, 5)
    assert "gap" not in head


def test_later_version_of_a_record_is_neither_read_nor_replaced(broker):
    owner = owner_of(broker)
    owner.publish(TOPIC, n=1)
    owner.step()
    save(owner)
    name = broker.keys.checkpoints(owner.number, "lifetime")
    header = broker.connections.command("HGET", name, TOPIC)
    later = header.replace(b'"format":1', b'"format":2')
    assert later != header
    broker.connections.command("HSET", name, TOPIC, later)
    owner = owner_of(broker)
    owner.publish(TOPIC, n=1)
    owner.step()
    assert TOPIC not in owner.partition.lifetime.topics
    assert owner.totals(TOPIC, "1m") == (2, 2)
    save(owner)
    assert broker.connections.command("HGET", name, TOPIC) == later


def test_other_groupings_keep_what_was_counted(broker):
    """A new grouping is counted from the log; where that is not possible, its rows are said to lack earlier events."""
    owner = owner_of(broker)
    owner.publish(TOPIC, n=1, city="a")
    owner.publish(TOPIC, n=2, city="b")
    owner.step()
    save(owner)
    several = replace(SETTINGS, key=("key", "city"))
    owner = owner_of(broker, several)
    owner.step()
    head, rows = frame(owner)
    assert plain(rows)["b", "n"][:2] == (1, 2)
    assert "approximate" not in head
    trim(broker, 1)
    owner = owner_of(broker, replace(SETTINGS, key=("city",)))
    owner.publish(TOPIC, n=4, city="b")
    owner.step()
    head, rows = frame(owner)
    assert plain(rows)[None, "n"][:2] == (3, 7)
    assert head["approximate"] == ["by city"]


def test_keys_beyond_the_limit_are_counted_together(broker):
    settings = replace(SETTINGS, max_keys=3)
    owner = owner_of(broker, settings)
    for n in range(6):
        owner.publish_all(TOPIC, [Event(key=f"k{n}", data={"n": n})])
    owner.step()
    save(owner)
    owner = owner_of(broker, replace(settings, max_keys=2))
    owner.publish_all(TOPIC, [Event(key="k5", data={"n": 100})])
    owner.step()
    _, rows = frame(owner)
    assert rows["__other__", "n"][2:5:2] == [5, 114]
    assert rows[None, "n"][2:5:2] == [7, 115]
    owner = owner_of(broker, replace(settings, max_keys=10))
    owner.publish_all(TOPIC, [Event(key="new", data={"n": 1})])
    owner.step()
    head, _ = frame(owner)
    assert "new" in head["partial"]


def test_an_entry_that_cannot_be_counted_costs_only_itself(broker, monkeypatch):
    owner = owner_of(broker)
    owner.publish(TOPIC, n=1)
    owner.step()
    engine = owner.partition.lifetime.topics[TOPIC].engine.engine
    real = type(engine).apply

    def failing(self, name, offset, arrival, events):
        if 7.0 in events.fields["n"].values:
            raise ValueError("poison")
        real(self, name, offset, arrival, events)

    monkeypatch.setattr(type(engine), "apply", failing)
    for n in (2, 7, 4):
        owner.publish(TOPIC, n=n)
    for _ in range(10):
        owner.step()
    assert frame(owner)[1][None, "n"][2:5:2] == [3, 7]
    assert owner.totals(TOPIC, "1m")[0] == 4


def test_topics_without_room_wait_and_lose_no_rows(broker):
    """A successor has less room than the record has rows. It must not count keys under ``__other__`` for that."""
    owner = owner_of(broker)
    owner.publish_all(TOPIC, [Event(key=f"k{n}", data={"n": n}) for n in range(50)])
    owner.step()
    save(owner)
    owner = owner_of(broker)
    cells = owner.worker.room.cells_of(owner.number)
    free, cells.limit = cells.limit, 60
    owner.publish_all(TOPIC, [Event(key="k1", data={"n": 1})])
    owner.step()
    assert TOPIC not in owner.partition.lifetime.topics
    cells.limit = free
    owner.partition.unsure = True
    owner.step()
    head, rows = frame(owner)
    assert len(rows) == 102
    assert rows["k1", "n"][2:5:2] == [2, 2]
    assert "partial" not in head


def test_records_wait_for_the_end_of_the_process_at_most(broker):
    """What is counted between two records is written when the process ends in order, however little it is."""
    owner = owner_of(broker)
    owner.worker.lifetimes._writer._policy = owner.policy.lifetimes
    owner.publish(TOPIC, n=1)
    owner.step()
    save(owner)
    assert not broker.lifetimes.headers(owner.number)[1]
    owner.worker.lifetimes.finish(owner.worker.partitions.values())
    assert TOPIC in broker.lifetimes.headers(owner.number)[1]


def test_small_topics_that_nobody_wants_are_counted_in_this_window(broker):
    broker.check_layout()
    owner = Owner(broker, [TOPIC], TopicRules([(TOPIC, SETTINGS)]), policy=WorkerPolicy(), unwanted=True)
    owner.publish(TOPIC, n=1)
    owner.step()
    assert TOPIC in owner.partition.dormant
    owner.publish(TOPIC, n=2)
    assert owner.partition.add_unread(TOPIC)
    until(lambda: owner.worker.step() or owner.partition.lifetime.topics[TOPIC].counts.offset == 2)
    assert owner.frames(TOPIC, "all") == []
    owner.want()
    owner.partition.loaded = False
    until(lambda: owner.worker.step() or owner.frames(TOPIC, "all"))
    assert frame(owner)[1][None, "n"][2:5:2] == [2, 3]


@pytest.mark.parametrize("seed", range(1, 3))
def test_shards_count_as_one_engine_does(broker, seed):
    """The parts of a topic change with each owner, and with them the shard of each key."""
    chance, events, last = random.Random(seed), {}, 0
    for parts in (2, 1, 3, 2):
        owner = owner_of(broker, replace(SETTINGS, windows=SETTINGS.windows[1:], parts=parts))
        try:
            for _ in range(3):
                batch = [random_event(chance) for _ in range(40)]
                owner.publish_all(TOPIC, batch)
                events |= dict(enumerate(batch, last + 1))
                last += len(batch)
                step_to(owner, last)
            save(owner)
            trim(broker, 1)
            never_again(owner)
            offset = chance.choice([one for one in events if one > last - 40])
            events[offset] = random_event(chance)
            correct(owner, f"${offset}", events[offset])
            last += 1
            step_to(owner, last)
            head, rows = frame(owner)
            assert head["approximate"] == ["corrections"]
            check(rows, list(events.values()), exact=False)
        finally:
            owner.worker.drop(owner.number)
    assert "gap" not in head


def step_to(owner, offset):
    """Step until the newest frame has an offset."""
    until(lambda: owner.step() or [entry.source for entry in owner.frames(TOPIC, "all")][-1:] == [offset])
