"""Reads single statistics of a topic that shards count: each reads its own keys, and the totals are merged."""

from collections.abc import Sequence

import msgspec
import numpy as np

from pushsvc.aggregate.reading import MOMENT_NAMES, RowsWanted
from pushsvc.settings import TopicSettings
from pushsvc.stats.arrays import Floats
from pushsvc.stats.panes.partials import RowPartial, merge_partials
from pushsvc.stats.statistic_names import percent_of


class ShardRows(msgspec.Struct, frozen=True, array_like=True):
    """What one shard has of ``RowsWanted``: the ``values`` [statistics, n] of its own ``keys`` [n] as the bytes of
    doubles, and for each statistic the row of all keys together."""

    keys: list[str]
    values: bytes
    totals: list[RowPartial]


class MergedReading:
    """The statistics that were wanted, at one offset of all shards: a Reading. Totals are those of one engine, bit for
    bit."""

    def __init__(self, settings: TopicSettings, wanted: RowsWanted, shards: Sequence[ShardRows]) -> None:
        size = len(wanted.statistics)
        self._statistics = wanted.statistics
        self._keys = [key for shard in shards for key in shard.keys]
        self._places: dict[str | None, int] = {key: place for place, key in enumerate(self._keys)}
        self._places[None] = len(self._keys)
        absent = np.full((size, 1), np.nan)
        totals = [
            _total(settings, name, window, [shard.totals[place] for shard in shards])
            for place, (name, _, window) in enumerate(wanted.statistics)
        ]
        own = [np.frombuffer(shard.values).reshape(size, -1) for shard in shards]
        self._values: Floats = np.concatenate([*own, np.reshape(totals, (size, 1)), absent], axis=1)

    def keys(self, grouping: int) -> list[str]:
        return self._keys

    def values(self, name: str, field: str | None, window: str, keys: Sequence[str | None], grouping: int) -> Floats:
        row = self._values[self._statistics.index((name, field, window))]
        return np.asarray(row[[self._places.get(key, -1) for key in keys]])


def _total(settings: TopicSettings, name: str, window: str, partials: Sequence[RowPartial]) -> float:
    count = sum(partial.count for partial in partials)
    if not count:
        return np.nan
    if name == "count":
        return count
    found = settings.window(window)
    if name == "rate" and found is not None:
        return count / (found.length / 1_000)
    percent = percent_of(name)
    at = MOMENT_NAMES.index(name) if percent is None else len(MOMENT_NAMES) + settings.percents.index(percent)
    value = float(merge_partials(partials, settings.percents)[at])
    return value if np.isfinite(value) else np.nan
