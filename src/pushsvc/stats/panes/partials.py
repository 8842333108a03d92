"""Partial aggregates of one row, made by several engines and merged into its statistics.

They are those of one engine that counted everything, bit for bit (see moments.py).
"""

from collections.abc import Sequence

import msgspec
import numpy as np

from pushsvc.stats.arrays import Floats, Ints
from pushsvc.stats.moments import EMPTY, HIGH, LOW, MOMENTS, PARTS, SPREAD, Moments, describe, merge_runs
from pushsvc.stats.panes.quantiles import NEWEST, lower_ends


class RowPartial(msgspec.Struct, frozen=True, array_like=True):
    """A row of one engine. ``parts`` are those of Moments, ``buckets`` and their ``counts`` the bytes of int64 arrays,
    ``newest`` all values of the row or None if it has too many. The buckets were joined in pairs ``level`` times."""

    count: int
    parts: Sequence[float] = tuple(EMPTY.tolist())
    buckets: bytes = b""
    counts: bytes = b""
    newest: list[float] | None = None
    level: int = 0


def merge_partials(partials: Sequence[RowPartial], percents: Sequence[int]) -> Floats:
    """Merge all partials of a row; return its moments and quantiles [5 + percents]."""
    counts = np.array([one.count for one in partials], np.int64)
    given = Moments(counts, parts_of(partials))
    moments = merge_runs(given, np.zeros(1, np.int64))
    if counts.min(initial=0) < 0:  # events of other engines were taken out there: only sums can be merged
        moments.parts[SPREAD] = np.nan
    found = np.full(MOMENTS + len(percents), np.nan)
    found[:MOMENTS] = describe(moments)[:, 0]
    count = int(counts.sum())
    if count and percents:
        ranks = np.array([-(-percent * count // 100) for percent in percents])
        values = _values(partials) if count <= NEWEST else None
        if values is None:
            found[MOMENTS:] = np.clip(_approximate(partials, ranks), *moments.parts[[LOW, HIGH], 0])
        else:
            found[MOMENTS:] = values[ranks - 1]
    return found


def parts_of(partials: Sequence[RowPartial]) -> Floats:
    """Return the floats [6, n] of partials. Those of earlier versions had no last one: their spread was one double."""
    return np.array([[*one.parts, 0.0][:PARTS] for one in partials]).T


def _values(partials: Sequence[RowPartial]) -> Floats | None:
    """Return all values, ascending; None if a partial does not have them."""
    known = [one.newest for one in partials if one.count]
    return None if None in known else np.sort(np.concatenate([np.array(values) for values in known]))


def _approximate(partials: Sequence[RowPartial], ranks: Ints) -> Floats:
    """Return the ends nearer to zero of the buckets that contain the values of ranks."""
    buckets = np.concatenate([np.frombuffer(one.buckets, np.int64) for one in partials])
    counts = np.concatenate([np.frombuffer(one.counts, np.int64) for one in partials])
    order = np.argsort(buckets)
    return lower_ends(buckets[order][np.searchsorted(np.cumsum(counts[order]), ranks)])
