"""When an engine looks at the memory that it takes."""

from __future__ import annotations

import pytest

from pushsvc.aggregate.aggregate import _EVENT_BYTES, Aggregate
from pushsvc.event import Event
from pushsvc.event.columns import Columns
from pushsvc.settings import TopicSettings
from pushsvc.stats.panes.pane_windows import PaneWindows

T = 1_700_000_000_000


def test_a_look_at_the_memory_waits_for_events_that_could_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    measure = PaneWindows.measure

    def look(engine: PaneWindows, most_bytes: int) -> None:
        looks.append(most_bytes)
        measure(engine, most_bytes)

    monkeypatch.setattr(PaneWindows, "measure", look)
    settings = TopicSettings()
    aggregate = Aggregate(settings, T)
    topic = aggregate.open("t", T)

    def apply(second: int, key: str) -> None:
        events = Columns.from_events([Event(key=key, data={"x": 1})], settings.key)
        aggregate.apply("t", second, T + second * 1_000, events)

    aggregate._most_bytes = 100 * _EVENT_BYTES
    for second in range(19):
        apply(second, "a")
    assert len(looks) == 1, "events panes apart, as of a sparse log that is read again"
    aggregate._most_bytes = 0
    for second in range(19, 29):
        apply(second, f"k{second}")
    assert len(looks) == 11, "where memory is short, every pane may have brought some back"
    assert topic.folded == 10
