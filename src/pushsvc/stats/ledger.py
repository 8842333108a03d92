"""What a reader of the frames holds of each window, and so what the next frame must say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pushsvc.stats.arrays import Counts, Flags, Ints
from pushsvc.stats.engine import Engine
from pushsvc.stats.rows import ALL_KEYS, CLOSED, HIDDEN, TopicRows

_ABSENT, _LIVE, _ZERO = range(3)


@dataclass(frozen=True, slots=True)
class RowChanges:
    """What to say of a window. Rows [n] are ordered by topic, and so are those that are gone [m].

    What they say besides their count is read where they are told, a few at a time.
    """

    rows: Ints
    count: Counts
    gone: Ints


class Ledger:
    """Follows every row of every window of ``rolling``: absent, live, or last said to be zero.

    A row that becomes empty is said once with count 0 and is gone in the next report; totals stay.
    """

    STATE = ("_rolling", "_known")

    def __init__(self, rolling: Engine) -> None:
        self._rolling = rolling
        self._known: NDArray[np.uint8] = np.zeros((len(rolling.windows), 0), np.uint8)

    def pending(self, window: int) -> Ints:
        """Return the rows of which an update may have something to say."""
        self._reserve()
        return np.flatnonzero(self._rolling.changed(window) | (self._known[window, : len(self._rolling.rows)] == _ZERO))

    def update(self, window: int, rows: Ints) -> RowChanges:
        """Report what changed among pending rows since their last report."""
        rows = self._by_topic(rows)
        self._rolling.pause()
        self._rolling.take_changes(window, rows)
        count = self._rolling.held(window, rows)
        live = (count > 0) | self._total(rows)
        known = self._known[window, rows]
        said = live | (known == _LIVE)
        gone = rows[~live & (known == _ZERO)]
        self._known[window, rows] = np.where(live, _LIVE, np.where(known == _LIVE, _ZERO, _ABSENT))
        self._rolling.pause()
        return RowChanges(rows[said], count[said], gone)

    def snapshot(self, window: int, topic: TopicRows) -> RowChanges:
        """Report all rows of a topic that are not empty, and totals; what the reader held before no longer counts."""
        self._reserve()
        own = self._rolling.rows.of_topic(topic)
        own = own[self._rolling.rows.kind[own] != HIDDEN]
        self._rolling.pause()
        self._rolling.take_changes(window, own)
        count = self._rolling.held(window, own)
        self._rolling.pause()
        live = (count > 0) | self._total(own)
        self._known[window, own] = np.where(live, _LIVE, _ABSENT)
        self._rolling.pause()
        return RowChanges(own[live], count[live], np.zeros(0, np.int64))

    def nothing(self) -> RowChanges:
        """Return a report that says nothing."""
        none = np.zeros(0, np.int64)
        return RowChanges(none, none, none)

    def discard(self, topic: TopicRows) -> None:
        """Forget a topic, whatever is in its rows."""
        self._reserve()
        self._known[:, self._rolling.discard(topic)] = _ABSENT

    def release(self) -> None:
        """Free the rows that are empty in every window and that no reader holds."""
        self._reserve()
        unused = self._rolling.unused()
        unused = unused[(self._known[:, unused] == _ABSENT).all(axis=0)]
        if len(unused):
            self._rolling.close(unused)

    def _by_topic(self, rows: Ints) -> Ints:
        topics = self._rolling.rows.topic[rows]
        rows = rows[topics != CLOSED]
        return rows[np.argsort(self._rolling.rows.topic[rows], kind="stable")]

    def _total(self, rows: Ints) -> Flags:
        return np.asarray(self._rolling.rows.key[rows] == ALL_KEYS)

    def _reserve(self) -> None:
        more = len(self._rolling.rows.topic) - self._known.shape[1]
        if more > 0:
            self._known = np.pad(self._known, ((0, 0), (0, more)))
