"""What one engine knows of a row of which others know the rest, in a form that merges exactly.

Counts, sums, least, greatest and buckets of quantiles are the same as if one engine had counted everything; std is as
good (see moments).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from pushsvc.stats.arrays import Floats, Ints
from pushsvc.stats.moments import EMPTY, HIGH, LOW, MOMENTS, Moments, describe, merge_runs
from pushsvc.stats.panes.histograms import NEWEST, lower_ends


class RowPartial(msgspec.Struct, frozen=True, array_like=True):
    """A row of an engine: ``parts`` as in Moments; ``buckets`` in order with their ``counts``, arrays of int64;
    ``newest`` all its values, None where these are not known any more."""

    count: int
    parts: Sequence[float] = tuple(EMPTY.tolist())
    buckets: bytes = b""
    counts: bytes = b""
    newest: list[float] | None = None


def merged(partials: Sequence[RowPartial], percents: Sequence[int]) -> Floats:
    """Return the moments and quantiles [5 + percents] of all partials of a row together."""
    counts = np.array([one.count for one in partials], np.int64)
    given = Moments(counts, np.array([one.parts for one in partials]).T)
    moments = merge_runs(given, np.zeros(1, np.int64))
    found = np.full(MOMENTS + len(percents), np.nan)
    found[:MOMENTS] = describe(moments)[:, 0]
    count = int(counts.sum())
    if count and percents:
        ranks = np.array([-(-percent * count // 100) for percent in percents])
        values = _values(partials) if count <= NEWEST else None
        if values is None:
            found[MOMENTS:] = np.clip(_near(partials, ranks), *moments.parts[[LOW, HIGH], 0])
        else:
            found[MOMENTS:] = values[ranks - 1]
    return found


def _values(partials: Sequence[RowPartial]) -> Floats | None:
    """Return all values in order; None where some are not known."""
    known = [one.newest for one in partials if one.count]
    return None if None in known else np.sort(np.concatenate([np.array(values) for values in known]))


def _near(partials: Sequence[RowPartial], ranks: Ints) -> Floats:
    """Return the lower ends of the buckets that hold the values of ranks."""
    buckets = np.concatenate([np.frombuffer(one.buckets, np.int64) for one in partials])
    counts = np.concatenate([np.frombuffer(one.counts, np.int64) for one in partials])
    order = np.argsort(buckets)
    return lower_ends(buckets[order][np.searchsorted(np.cumsum(counts[order]), ranks)])
