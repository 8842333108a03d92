"""Reads single statistics of a topic's rows, without a frame: what subscribers get of them does not change."""

from collections.abc import Sequence
from typing import Protocol

import msgspec
import numpy as np

from pushsvc.settings import TopicSettings
from pushsvc.stats.arrays import Counts, Floats, Ints
from pushsvc.stats.engine import Engine
from pushsvc.stats.panes.partials import RowPartial
from pushsvc.stats.rows import ALL_KEYS, CLOSED, TopicRows
from pushsvc.stats.statistic_names import percent_of

MOMENT_NAMES = ("sum", "mean", "min", "max", "std")  # in the order of ``Engine.read``


class RowsWanted(msgspec.Struct, frozen=True):
    """Statistics (name, field, window) of a grouping: of all keys together, and of some ``keys`` (None: of each)."""

    grouping: int
    statistics: list[tuple[str, str | None, str]]
    keys: list[str] | None


class Reading(Protocol):
    """The present statistics of one topic, or those that were wanted."""

    def keys(self, grouping: int) -> list[str]:
        """Return the keys of a grouping that have rows of their own."""

    def values(self, name: str, field: str | None, window: str, keys: Sequence[str | None], grouping: int) -> Floats:
        """Return a statistic of keys [n] in a window; a key None stands for all keys together. ``field`` None counts
        events. NaN where a row has no events."""


class TopicReading:
    """A Reading of one engine."""

    def __init__(self, engine: Engine, settings: TopicSettings, table: TopicRows) -> None:
        self._engine = engine
        self._settings = settings
        self._table = table

    def keys(self, grouping: int) -> list[str]:
        return [name for name in self._table.indexes[grouping] if name is not None]

    def values(self, name: str, field: str | None, window: str, keys: Sequence[str | None], grouping: int) -> Floats:
        return np.asarray(self.several((name,), field, window, keys, grouping)[0])

    def several(
        self, names: Sequence[str], field: str | None, window: str, keys: Sequence[str | None], grouping: int
    ) -> Floats:
        """Return several statistics [names, n], each as ``values`` returns it."""
        found = np.full((len(names), len(keys)), np.nan)
        number = self._table.fields.get(field)
        if number is None:
            return found
        index = self._table.indexes[grouping]
        places = np.fromiter((ALL_KEYS if key is None else index.get(key, CLOSED) for key in keys), np.int64, len(keys))
        rows = np.where(places == CLOSED, CLOSED, self._table.table[number, places]).astype(np.int64)
        place = self._place(window)
        there = np.flatnonzero(rows != CLOSED)
        counts = self._engine.counts(place, rows[there])
        there, counts = there[counts > 0], counts[counts > 0]
        if len(there):
            for at, name in enumerate(names):
                found[at, there] = self._read(name, place, rows[there], counts)
        return np.where(np.isfinite(found), found, np.nan)

    def total(self, field: str | None, window: str) -> RowPartial:
        """Return the mergeable state of the row of all keys together."""
        number = self._table.fields.get(field)
        if number is None:
            return RowPartial(0)
        (partial,) = self._engine.partials(self._place(window), self._table.table[number, [ALL_KEYS]].astype(np.int64))
        return partial

    def _place(self, window: str) -> int:
        found = self._settings.window(window)
        return next(at for at, one in enumerate(self._settings.windows) if one == found)

    def _read(self, name: str, window: int, rows: Ints, counts: Counts) -> Floats:
        if name == "count":
            return counts.astype(np.float64)
        if name == "rate":
            return np.asarray(counts / (self._settings.windows[window].length / 1_000), np.float64)
        if name == "distinct":
            column = self._settings.value_statistics.index(name)
            return np.array(self._engine.read_values(window, rows)[column], np.float64)
        percent = percent_of(name)
        at = MOMENT_NAMES.index(name) if percent is None else len(MOMENT_NAMES) + self._settings.percents.index(percent)
        return np.asarray(self._engine.read(window, rows)[at])
