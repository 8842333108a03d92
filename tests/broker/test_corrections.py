"""Corrections beside the log: what is stored, what reads return, and what is kept by trimming and deleting."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest

from pushsvc.broker.broker import LAYOUT
from pushsvc.errors import EventGone, NoEvent, PushError, WindowsIncomplete
from pushsvc.event import Event
from pushsvc.event.index import term
from pushsvc.settings import TopicSettings
from pushsvc.stats.window import Window
from support.reference.logs import LOG, PARTITION, Windowless

TOPIC = LOG.topic
PLAIN = Windowless()
INDEXED = Windowless(index=("user",))
LATEST = Windowless(latest=True)


def event(key, value, **attributes):
    return Event(key=key, data={"value": value}, **attributes)


def publish(broker, *events, settings=PLAIN):
    return broker.publish(TOPIC, list(events), settings)


def correct(broker, name, to, settings=PLAIN):
    return broker.corrections.correct(TOPIC, settings, broker.corrections.find(TOPIC, name), to)


def current(broker, settings=PLAIN):
    """Return the offsets and values of the events in their current forms, read up and down."""
    up = broker.read(PARTITION, {LOG: 0}, current=True).logs[LOG].entries
    down = broker.read_back(TOPIC, "+").entries
    assert [entry.lines() for entry in up] == [entry.lines() for entry in reversed(down)]
    return [(offset, Event.decode(line).data["value"]) for entry in up for offset, line in entry.lines()]


def newest(broker, settings=LATEST):
    found = broker.latest.read(TOPIC, settings)
    return {key: (one.offset, Event.decode(one.line).data["value"]) for key, one in found.events.items()}


def test_the_log_keeps_what_was_published_and_a_read_returns_the_current_forms(broker):
    publish(broker, event("a", 1), event("b", 2), event("c", 3))
    publish(broker, event("a", 4))
    assert correct(broker, "$2", event("b", 20)).offset == 5
    assert correct(broker, "$1", None).offset == 6
    assert correct(broker, "$4", event("a", 40)).offset == 7
    assert current(broker) == [(2, 20), (3, 3), (4, 40)]
    raw = broker.read(PARTITION, {LOG: 0}).logs[LOG].entries
    assert [Event.decode(line).data["value"] for entry in raw for _, line in entry.lines()] == [1, 2, 3, 4]
    found = [entry.correction for entry in raw if entry.correction is not None]
    assert [(one.offset, bool(one.new)) for one in found] == [(2, True), (1, False), (4, True)]
    assert [entry.first for entry in raw] == [1, 4, 5, 6, 7]
    publish(broker, event("d", 5))
    assert current(broker)[-1] == (8, 5)


def test_an_entry_of_which_every_event_was_deleted_is_empty(broker):
    publish(broker, event("a", 1), event("b", 2))
    for name in ("$2", "$1"):
        correct(broker, name, None)
    assert current(broker) == []
    with pytest.raises(EventGone):
        correct(broker, "$1", event("a", 1))


def test_a_form_that_was_not_read_is_not_replaced(broker):
    publish(broker, event("a", 1))
    found = broker.corrections.find(TOPIC, "$1")
    correct(broker, "$1", event("a", 2))
    assert broker.corrections.correct(TOPIC, PLAIN, found, event("a", 3)) is None
    assert current(broker) == [(1, 2)]


def test_an_event_is_found_by_its_offset_and_by_its_newest_id(broker):
    publish(broker, event("a", 1, id="x/1"), event("a", 2, id="y"))
    for key in broker.keys.ids(TOPIC):
        broker.connections.command("DEL", key)
    publish(broker, event("a", 3, id="x/1"))
    for forgotten in (False, True):
        assert broker.corrections.find(TOPIC, "x/1").offset == 3
        assert broker.corrections.find(TOPIC, "y").offset == 2
        assert broker.corrections.find(TOPIC, "$1").offset == 1
        for name in ("z", "$0", "$4", "$x", "$99999999999999999999", "x"):
            with pytest.raises(NoEvent):
                broker.corrections.find(TOPIC, name)
        if not forgotten:
            for key in broker.keys.ids(TOPIC):
                broker.connections.command("DEL", key)
    correct(broker, "y", event("a", 20, id="y"))
    with pytest.raises(NoEvent, match="a correction of 2"):
        broker.corrections.find(TOPIC, "$4")
    mark = broker.corrections.find(TOPIC, "y").mark
    assert mark is not None
    assert mark.offset == 4


def test_trimming_removes_the_forms_of_trimmed_events(broker):
    settings = replace(PLAIN, retention=3)
    fence = broker.lease([PARTITION], "me", 3_600_000)[PARTITION]
    for value in range(3):
        publish(broker, event("a", value), settings=settings)
    correct(broker, "$1", event("a", 10))
    correct(broker, "$3", event("a", 30))
    correct(broker, "$2", None)
    held = broker.connections.command("HKEYS", broker.keys.corrections(TOPIC))
    assert sorted(held) == [b"1", b"2", b"3"]
    broker.sweep({TOPIC: settings}, fence, 100)
    metadata = broker.metadata([LOG])[0]
    assert int(metadata["gaps"]) == 4  # the log keeps corrections 4, 5 and 6
    assert broker.connections.command("HKEYS", broker.keys.corrections(TOPIC)) == []
    assert current(broker) == []
    with pytest.raises(EventGone):
        broker.corrections.find(TOPIC, "$1")
    for value in range(6):
        publish(broker, event("a", value), settings=settings)
    broker.sweep({TOPIC: settings}, fence, 100)
    assert int(broker.metadata([LOG])[0]["gaps"]) == 0
    assert len(current(broker)) == 3


def test_a_window_of_the_last_events_keeps_as_many_events_in_the_log(broker):
    fence = broker.lease([PARTITION], "me", 3_600_000)[PARTITION]
    settings = TopicSettings(windows=(Window.parse("last 4"),), retention=1)
    for value in range(8):
        publish(broker, event("a", value), settings=PLAIN)
    correct(broker, "$7", None)
    correct(broker, "$8", event("a", 80))
    broker.sweep({TOPIC: settings}, fence, 100)
    assert len(current(broker)) >= 4
    assert len(current(broker)) < 8


def test_what_a_window_may_have_lost_is_not_corrected(broker):
    fence = broker.lease([PARTITION], "me", 3_600_000)[PARTITION]
    windows = TopicSettings()
    for value in range(4):
        publish(broker, event("a", value), settings=PLAIN)
    correct(broker, "$4", event("a", 40), windows)
    broker.sweep({TOPIC: replace(PLAIN, retention=2)}, fence, 100)
    with pytest.raises(WindowsIncomplete):
        correct(broker, "$4", event("a", 4), windows)
    assert correct(broker, "$4", event("a", 4), PLAIN)


def test_a_deleted_topic_has_no_corrections(broker):
    publish(broker, event("a", 1))
    correct(broker, "$1", event("a", 2))
    assert broker.delete(TOPIC)
    assert not broker.connections.command("EXISTS", broker.keys.corrections(TOPIC))
    publish(broker, event("a", 3))
    assert current(broker) == [(3, 3)]


def test_the_first_correction_keeps_older_programs_out(broker):
    broker.check_layout()
    version = ("HGET", broker.keys.layout, "version")
    assert int(broker.connections.command(*version)) == LAYOUT - 1
    publish(broker, event("a", 1))
    correct(broker, "$1", None)
    assert int(broker.connections.command(*version)) == LAYOUT
    broker.check_layout()
    assert int(broker.connections.command(*version)) == LAYOUT


def test_the_index_finds_the_current_forms(broker):
    def users(*names):
        return [Event(key="k", data={"user": name, "value": name}) for name in names]

    def found(name):
        answer = broker.index.after(TOPIC, INDEXED.index, [term("user", name)], 0)
        assert answer.covered
        return [
            offset for entry in answer.entries for offset, line in entry.lines()
            if Event.decode(line).data["user"] == name
        ]  # fmt: skip

    broker.publish(TOPIC, users("ada", "bob", "cy"), INDEXED)
    correct(broker, "$1", users("a much longer name")[0], INDEXED)
    correct(broker, "$3", None, INDEXED)
    broker.publish(TOPIC, users("ada"), INDEXED)
    assert (found("ada"), found("a much longer name"), found("bob"), found("cy")) == ([6], [1], [2], [])
    broker.connections.command("DEL", broker.keys.index(TOPIC))
    broker.connections.command("HDEL", broker.keys.metadata(LOG), "indexed")
    assert broker.index.fill(TOPIC, INDEXED.index, 10)
    assert (found("ada"), found("a much longer name"), found("bob"), found("cy")) == ([6], [1], [2], [])


def test_the_newest_events_are_those_of_the_current_forms(broker):
    publish(broker, event("a", 1), event("b", 2), event("a", 3), settings=LATEST)
    correct(broker, "$3", event("a", 30), LATEST)
    assert newest(broker) == {"a": (3, 30), "b": (2, 2)}
    correct(broker, "$1", event("a", 10), LATEST)
    correct(broker, "$3", None, LATEST)
    assert newest(broker) == {"a": (1, 10), "b": (2, 2)}
    correct(broker, "$1", event("b", 11), LATEST)
    assert newest(broker) == {"b": (2, 2)}
    correct(broker, "$2", event("c", 12), LATEST)
    assert newest(broker) == {"b": (1, 11), "c": (2, 12)}
    correct(broker, "$1", None, LATEST)
    correct(broker, "$2", None, LATEST)
    assert newest(broker) == {}
    publish(broker, event("a", 5), settings=LATEST)
    assert newest(broker) == {"a": (11, 5)}


def test_newest_events_that_are_folded_from_the_log_have_the_current_forms(broker):
    publish(broker, event("a", 1), event("b", 2))
    correct(broker, "$1", event("a", 10))
    assert newest(broker) == {"a": (1, 10), "b": (2, 2)}
    publish(broker, event("a", 3))
    correct(broker, "$2", None)
    assert newest(broker) == {"a": (4, 3)}


def everything(broker):
    """Return all bytes that Redis has of the topic."""
    found = []
    for key in broker.connections.command("KEYS", f"{broker.keys.prefix}*"):
        for command in (("XRANGE", key, "-", "+"), ("HGETALL", key), ("ZRANGE", key, 0, -1)):
            with suppress(PushError):
                found.append(repr(broker.connections.command(*command)))
    return "".join(found)


def test_an_erased_event_is_nowhere(broker):
    settings = Windowless(latest=True, index=("user", "key"))

    def user(key, name, value, **attributes):
        return Event(key=key, data={"user": name, "value": value}, **attributes)

    events = [user("a", "first", 1), user("a", "secret-one", 2, id="secret-id"), user("b", "third", 3)]
    publish(broker, *events, settings=settings)
    publish(broker, user("a", "fourth", 4), settings=settings)
    correct(broker, "secret-id", user("a", "secret-two", 5, id="secret-id"), settings)
    correct(broker, "$4", None, settings)  # so the secret is the newest of its key
    correct(broker, "$2", user("secret-key", "secret-three", 6, id="secret-id"), settings)
    assert everything(broker).count("secret-") > 9
    found = broker.corrections.find(TOPIC, "secret-id")
    assert broker.corrections.correct(TOPIC, settings, found, None)
    broker.corrections.erase(TOPIC, settings, found)
    publish(broker, user("a", "fifth", 7), settings=settings)
    assert "secret" not in everything(broker)
    assert current(broker) == [(1, 1), (3, 3), (9, 7)]
    raw = broker.read(PARTITION, {LOG: 0}).logs[LOG].entries
    assert [entry.last for entry in raw] == [3, 4, 5, 6, 7, 8, 9]
    assert [event.type for event in raw[0].events] == ["message", "$erased", "message"]
    assert newest(broker, settings) == {"a": (9, 7), "b": (3, 3)}
    size = sum(len(data) for _, (_, _, _, data) in broker.connections.command("XRANGE", broker.keys.log(LOG), "-", "+"))
    assert int(broker.metadata([LOG])[0]["bytes"]) == size
    with pytest.raises(NoEvent):
        broker.corrections.find(TOPIC, "secret-id")
    assert broker.corrections.find(TOPIC, "$2").line is None


def test_events_that_come_while_one_is_erased_are_kept(broker, monkeypatch):
    for value in range(40):
        publish(broker, event("a", value))
    found = broker.corrections.find(TOPIC, "$7")
    assert broker.corrections.correct(TOPIC, PLAIN, found, None)
    fence = broker.lease([PARTITION], "me", 3_600_000)[PARTITION]
    monkeypatch.setattr("pushsvc.broker.corrections._READ_BYTES", 500)
    turns = []

    def pause():
        turns.append(publish(broker, event("a", 100)))
        if len(turns) == 5:
            broker.sweep({TOPIC: replace(PLAIN, retention=38)}, fence, 100)

    broker.corrections.erase(TOPIC, PLAIN, found, pause)
    assert len(turns) > 8
    values = [value for _, value in current(broker)]
    assert values == [*(value for value in range(40) if value > 41 + 5 - 38 - 1), *[100] * len(turns)][-len(values) :]
    entries = broker.read(PARTITION, {LOG: 0}).logs[LOG].entries
    assert [entry.last for entry in entries] == list(range(entries[0].last, 42 + len(turns)))


def test_erasing_in_a_topic_that_is_deleted_meanwhile_changes_nothing(broker):
    publish(broker, event("a", 1))
    found = broker.corrections.find(TOPIC, "$1")
    assert broker.corrections.correct(TOPIC, PLAIN, found, None)
    broker.corrections.erase(TOPIC, PLAIN, found, lambda: broker.delete(TOPIC))
    assert not broker.connections.command("EXISTS", broker.keys.log(LOG))
    assert not [key for key in broker.connections.command("KEYS", f"{broker.keys.prefix}*") if b"$erased" in key]
