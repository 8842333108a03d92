"""When an engine measures its memory."""

from __future__ import annotations

from pushsvc.aggregate.aggregate import Aggregate
from pushsvc.aggregate.row_updates import TopicCounts
from pushsvc.event import Event
from pushsvc.event.columns import Columns
from pushsvc.settings import TopicSettings

T = 1_700_000_000_000


class Limit(int):
    """A number of bytes that counts the sizes compared with it: ``size > limit`` asks the limit, a subclass."""

    compared = 0

    def __lt__(self, size: int) -> bool:
        self.compared += 1
        return int(self) < size


def apply_a_second_apart(limit: Limit, keys: list[str]) -> TopicCounts:
    """Apply an event of each key, panes apart as in a sparse log; return the counts of their topic."""
    settings = TopicSettings()
    aggregate = Aggregate(settings, T, most_bytes=limit)
    topic = aggregate.open("t", T)
    for second, key in enumerate(keys, 1):
        events = Columns.from_events([Event(key=key, data={"x": 1})], settings.key)
        aggregate.apply("t", second, T + second * 1_000, events)
    return topic


def test_memory_is_measured_once_events_may_have_taken_a_tenth_of_the_limit() -> None:
    limit = Limit(4_800_000)  # an event may take 1 % of it: two rows of 8,000 bytes in each of three windows
    assert apply_a_second_apart(limit, ["a"] * 19).folded == 0
    assert limit.compared == 1


def test_short_memory_is_measured_in_every_pane_as_it_may_have_freed_some() -> None:
    limit = Limit(0)
    topic = apply_a_second_apart(limit, [f"k{second}" for second in range(10)])
    assert limit.compared == 10
    assert topic.folded == 10
