"""What conditions are asked of: the rows of a topic, and the events of its log."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pushsvc.aggregate.reading import Reading
from pushsvc.alerts.condition import FALSE, TRUE, EventTest, Numbers, Statistic, Truths
from pushsvc.event import Event


class RowSource:
    """Statistics of the rows ``names`` [n] of a grouping; None stands for all keys. Without ``reading`` the topic does
    not exist, and no row has events."""

    def __init__(self, reading: Reading | None, names: Sequence[str | None], grouping: int) -> None:
        self._reading = reading
        self._names = names
        self._grouping = grouping

    def numbers(self, statistic: Statistic) -> Numbers:
        keys: Sequence[str | None] = self._names
        if statistic.all_keys:
            keys = [None]
        elif statistic.key is not None:
            keys = [statistic.key]
        if self._reading is None:
            return np.full(len(keys), statistic.if_absent)
        found = self._reading.values(statistic.name, statistic.field, statistic.window, keys, self._grouping)
        return np.where(np.isnan(found), statistic.if_absent, found)

    def truths(self, test: EventTest) -> Truths:
        raise TypeError("an event test has no rows")


class EventSource:
    """The events [n] of an entry."""

    def __init__(self, events: Sequence[Event]) -> None:
        self._members = [event.data | {"id": event.id, "type": event.type, "key": event.key} for event in events]

    def numbers(self, statistic: Statistic) -> Numbers:
        raise TypeError("an event has no statistics")

    def truths(self, test: EventTest) -> Truths:
        return np.array([TRUE if test.test(members) else FALSE for members in self._members], np.int8)
