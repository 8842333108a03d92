"""When an engine measures its memory."""

from __future__ import annotations

import pytest

from pushsvc.aggregate.aggregate import _EVENT_BYTES, Aggregate
from pushsvc.event import Event
from pushsvc.event.columns import Columns
from pushsvc.settings import TopicSettings
from pushsvc.stats.engine import Engine

T = 1_700_000_000_000


def test_memory_is_measured_after_enough_events_or_when_it_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []
    check_memory = Engine.check_memory

    def spy(engine: Engine, most_bytes: int) -> None:
        measured.append(most_bytes)
        check_memory(engine, most_bytes)

    monkeypatch.setattr(Engine, "check_memory", spy)
    settings = TopicSettings()
    aggregate = Aggregate(settings, T)
    topic = aggregate.open("t", T)

    def apply(second: int, key: str) -> None:
        events = Columns.from_events([Event(key=key, data={"x": 1})], settings.key)
        aggregate.apply("t", second, T + second * 1_000, events)

    aggregate._most_bytes = 100 * _EVENT_BYTES
    for second in range(19):
        apply(second, "a")
    assert len(measured) == 1, "events that are panes apart, as in a sparse log"
    aggregate._most_bytes = 0
    for second in range(19, 29):
        apply(second, f"k{second}")
    assert len(measured) == 11, "with little memory, every new pane may have freed some"
    assert topic.folded == 10
