"""Batches of events by row, and the partial aggregates by row that they make."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pushsvc.stats.arrays import Floats, Index, Ints, lengths_of, runs_of
from pushsvc.stats.moments import Moments, empty, merge_equal, reduce

RowBatch = tuple[Ints, Index, Floats | None]
"""Grains, rows, and values [n]; no values for rows that only count."""


def merged(batches: Sequence[RowBatch]) -> Iterator[RowBatch]:
    """Yield one batch of the events without values, and one of those with values."""
    for valued in (False, True):
        chosen = [batch for batch in batches if (batch[2] is not None) == valued]
        if chosen:
            grains = np.concatenate([grains for grains, _, _ in chosen])
            rows = np.concatenate([rows for _, rows, _ in chosen])
            values = [values for _, _, values in chosen if values is not None]
            yield grains, rows, np.concatenate(values) if valued else None


def without(batches: Sequence[RowBatch], rows: Ints) -> list[RowBatch]:
    """Return the batches without the events of some rows."""
    left = []
    for grains, own, values in batches:
        kept = ~np.isin(own, rows)
        if kept.any():
            left.append((grains[kept], own[kept], None if values is None else values[kept]))
    return left


def size_of(batches: Sequence[RowBatch]) -> int:
    """Return the bytes of the arrays."""
    return sum(array.nbytes for batch in batches for array in batch if array is not None)


def group(rows: Index, values: Floats | None, total: Index, width: int | None = None) -> list[tuple[Index, Moments]]:
    """Return (rows, partials) of the rows, ascending and distinct, and if there are any the same of their totals.

    ``total`` [R] is the total of each row. With ``width`` every row, also in the
    result, is a code: pane * ``width`` + row.
    """
    if values is None:  # np.sort alone is five times faster than argsort
        ordered = np.sort(rows)
        starts = runs_of(ordered)
        moments = Moments(lengths_of(starts, len(rows)).astype(np.int32), empty(0))
    else:
        order = np.argsort(rows)
        ordered = rows[order]
        starts = runs_of(ordered)
        moments = reduce(values[order], starts)
    own = ordered[starts]
    totals = total[own] if width is None else own - own % width + total[own % width]
    keyed = np.flatnonzero(totals != own)
    if not len(keyed):
        return [(own, moments)]
    if values is None:
        order = np.argsort(totals[keyed])
        starts = runs_of(totals[keyed][order])
        counts = np.add.reduceat(moments.count[keyed][order], starts, dtype=np.int32)
        return [(own, moments), (totals[keyed][order][starts], Moments(counts, empty(0)))]
    all_rows, together = merge_equal(totals[keyed], moments.take(keyed))
    return [(own, moments), (all_rows, together)]


def joined(groups: list[tuple[Index, Moments]]) -> tuple[Index, Moments]:
    """Merge the results of ``group`` into one: rows ascending and distinct."""
    if len(groups) == 1:
        return groups[0]
    rows = np.concatenate([rows for rows, _ in groups])
    count = np.concatenate([moments.count for _, moments in groups])
    if groups[0][1].parts.size:
        return merge_equal(rows, Moments(count, np.concatenate([moments.parts for _, moments in groups], axis=1)))
    order = np.argsort(rows)
    starts = runs_of(rows[order])
    return rows[order][starts], Moments(np.add.reduceat(count[order], starts, dtype=np.int32), empty(0))


def by_pane(panes: Ints) -> list[tuple[int, slice]]:
    """Return the pane and the slice of each run of equal panes."""
    starts = runs_of(panes)
    edges = zip(starts.tolist(), np.append(starts[1:], len(panes)).tolist(), strict=True)
    return [(int(panes[start]), slice(start, end)) for start, end in edges]
