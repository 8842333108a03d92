"""The rows that a reader of the frames has of each window, hence those that the next frame must contain."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pushsvc.stats.arrays import Counts, Flags, Ints
from pushsvc.stats.engine import Engine
from pushsvc.stats.rows import ALL_KEYS, CLOSED, HIDDEN, TopicRows

_ABSENT, _LIVE, _ZERO = range(3)


@dataclass(frozen=True, slots=True)
class RowChanges:
    """The rows [n] of a window to send, with their counts, and those that are gone [m]; both ordered by topic. Their
    other columns are read a few at a time when frames are encoded."""

    rows: Ints
    count: Counts
    gone: Ints


class Ledger:
    """Tracks for every row of every window what readers have: nothing, a live row, or a row with count 0. A row that
    becomes empty is sent once with count 0, and is gone in the next update; totals stay."""

    STATE = ("_engine", "_known")

    def __init__(self, engine: Engine, windows: int) -> None:
        self._engine = engine
        self._known: NDArray[np.uint8] = np.zeros((windows, 0), np.uint8)

    def pending(self, window: int) -> Ints:
        """Return the rows that an update may have to contain."""
        self._reserve()
        return np.flatnonzero(self._engine.changed(window) | (self._known[window, : self._engine.rows.size] == _ZERO))

    def update(self, window: int, rows: Ints) -> RowChanges:
        """Return the changes of pending rows since they were last returned."""
        rows = rows[self._engine.rows.topic[rows] != CLOSED]
        rows = rows[np.argsort(self._engine.rows.topic[rows], kind="stable")]
        self._engine.pause()
        self._engine.set_changed(window, rows, changed=False)
        count = self._engine.counts(window, rows)
        live = (count > 0) | self._total(rows)
        known = self._known[window, rows]
        sent = live | (known == _LIVE)
        gone = rows[~live & (known == _ZERO)]
        self._known[window, rows] = np.where(live, _LIVE, np.where(known == _LIVE, _ZERO, _ABSENT))
        self._engine.pause()
        return RowChanges(rows[sent], count[sent], gone)

    def snapshot(self, window: int, topic: TopicRows) -> RowChanges:
        """Return all rows of a topic that are not empty, and totals. They replace all that readers have."""
        self._reserve()
        own = self._visible_rows(topic)
        self._engine.pause()
        self._engine.set_changed(window, own, changed=False)
        count = self._engine.counts(window, own)
        self._engine.pause()
        live = (count > 0) | self._total(own)
        self._known[window, own] = np.where(live, _LIVE, _ABSENT)
        self._engine.pause()
        return RowChanges(own[live], count[live], np.zeros(0, np.int64))

    def begin(self, window: int, topic: TopicRows) -> None:
        """Let the next update have all rows of a topic, as for readers that have nothing."""
        self._reserve()
        own = self._visible_rows(topic)
        self._known[window, own] = _ABSENT
        self._engine.set_changed(window, own, changed=True)

    def end(self, window: int, rows: Ints) -> None:
        """Note that nobody reads changes of rows: readers have nothing of them."""
        self._reserve()
        self._known[window, rows] = _ABSENT
        self._engine.set_changed(window, rows, changed=False)

    def _visible_rows(self, topic: TopicRows) -> Ints:
        own = self._engine.rows.of_topic(topic)
        return np.asarray(own[self._engine.rows.kind[own] != HIDDEN])

    @staticmethod
    def no_changes() -> RowChanges:
        none = np.zeros(0, np.int64)
        return RowChanges(none, none, none)

    def drop_topic(self, topic: TopicRows) -> None:
        """Drop a topic with everything in its rows."""
        self._reserve()
        self._known[:, self._engine.drop_topic(topic)] = _ABSENT

    def release(self) -> None:
        """Free the rows that are empty in every window and that no reader has."""
        self._reserve()
        unused = self._engine.unused_rows()
        unused = unused[(self._known[:, unused] == _ABSENT).all(axis=0)]
        if len(unused):
            self._engine.free_rows(unused)

    def _total(self, rows: Ints) -> Flags:
        return np.asarray(self._engine.rows.key[rows] == ALL_KEYS)

    def _reserve(self) -> None:
        more = len(self._engine.rows.topic) - self._known.shape[1]
        if more > 0:
            self._known = np.pad(self._known, ((0, 0), (0, more)))
