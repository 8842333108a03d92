"""The declared state of every class that a checkpoint consists of."""

from dataclasses import replace

import numpy as np
import pytest

from pushsvc.aggregate.aggregate import SAVED_CLASSES, Aggregate
from pushsvc.aggregate.shard import Shard
from pushsvc.event import Event
from pushsvc.event.columns import Columns
from pushsvc.settings import TopicSettings
from pushsvc.stats.serialize import state_of
from pushsvc.stats.window import Window
from pushsvc.worker.engine import LocalEngine

T = 1_700_000_000_000
PANES = TopicSettings(
    windows=(Window.parse("10s"), Window.parse("1m")),
    values=("word",),
    statistics=("count", "mean", "p50", "distinct", "top", "first", "last"),
)
SETTINGS = {
    "panes": PANES,
    "panes and recent events": replace(PANES, windows=(*PANES.windows, Window.parse("last 5"))),
    "recent events": replace(PANES, exact=True),
}


def filled(kind, settings):
    """Return an aggregate of a kind with events in every structure: on time, late, early, and of several panes."""
    aggregate = kind(settings, T)
    aggregate.open("t", T)
    for turn in range(8):
        now = T + 500 * turn
        times = [now, now - 4_000, now + 3_000]
        events = [Event(time=time, key=f"k{turn % 3}", data={"x": turn / 8, "word": f"w{turn}"}) for time in times]
        aggregate.apply("t", 3 * turn + 3, now, Columns.from_events(events, settings.key, settings.values))
    return aggregate


def objects_of(root):
    """Return all objects below ``root`` whose classes are saved, by id."""
    found, waiting, seen = {}, [root], {}
    while waiting:
        value = waiting.pop()
        if id(value) in seen or isinstance(value, np.ndarray):
            continue
        seen[id(value)] = value
        if isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set):
            waiting += value
        elif type(value) in (type(root), *SAVED_CLASSES):
            found[id(value)] = value
            waiting += [getattr(value, name) for name in state_of(type(value))]
    return list(found.values())


def attributes_of(value):
    """Return the names of all attributes that an object has."""
    return set(vars(value)) if hasattr(value, "__dict__") else set(value.__slots__)


def both_lives(settings):
    """Return an aggregate that was filled, and one restored from its state."""
    saved = filled(Aggregate, settings)
    return saved, Aggregate.restore(settings, b"".join(saved.save()))


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_every_attribute_is_declared_as_state_or_as_derived(settings):
    """An attribute in neither list would be missing after a restart, and the first event to need it would fail."""
    for aggregate in both_lives(settings):
        for value in objects_of(aggregate):
            declared = {*state_of(type(value)), *getattr(value, "DERIVED", ())}
            assert attributes_of(value) == declared, type(value).__name__


@pytest.mark.parametrize("cls", [Shard, LocalEngine])
def test_every_attribute_of_an_engine_is_declared(cls):
    settings = TopicSettings(windows=PANES.windows, parts=2)
    saved = filled(cls, settings)
    for engine in (saved, cls.restore(settings, b"".join(saved.save()))):
        assert attributes_of(engine) == {*cls.STATE, *cls.DERIVED}


def test_these_aggregates_contain_every_saved_class():
    met = {type(value) for settings in SETTINGS.values() for value in objects_of(filled(Aggregate, settings))}
    assert met == {Aggregate, *SAVED_CLASSES}
