"""What one part of a split topic says of a window, and the frame that all parts together make.

The keys of each grouping are divided among the parts, so a key's rows are in one part and are told as they are. Rows of
all keys together, and of ``__other__``, are in every part: they are told as partials, and merged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import orjson

from pushsvc.aggregate.statistics_frame import Pieces, counts_to_json
from pushsvc.stats.moments import MOMENTS
from pushsvc.stats.panes.partials import RowPartial, merged
from pushsvc.stats.window import Window

Name = tuple[str | None, str | None, str | None]
"""Key (None for all), field (None for the one that counts events) and grouping of a row."""


class SharedRow(msgspec.Struct, frozen=True, array_like=True):
    """A row that other parts have too. ``changed`` tells that it has since it was last said, ``gone`` that this part
    has said it to be zero before."""

    name: Name
    changed: bool
    gone: bool
    partial: RowPartial


class Share(msgspec.Struct, frozen=True, array_like=True):
    """What one part says of a window from the ms ``start`` to ``end``. ``rows`` and ``gone`` are JSON arrays of its own
    rows without the brackets, ``partial`` keys whose rows may not say all; ``ending`` tells that one is zero.
    ``shared`` are all of its shared rows."""

    start: int
    end: int
    rows: bytes
    gone: bytes
    partial: list[str]
    ending: bool
    shared: list[SharedRow]


class Merged(NamedTuple):
    """The body of a frame, as of Frame."""

    parts: list[bytes]
    ending: bool


class Merger:
    """Makes frames of shares. A shared row keeps its figures, bit for bit, until a part says that it changed."""

    def __init__(self, windows: Sequence[Window], percents: Sequence[int], several: bool) -> None:
        self._windows = windows
        self._percents = tuple(percents)
        self._several = several
        self._said: list[dict[Name, bytes]] = [{} for _ in windows]

    def merge(self, window: int, shares: Sequence[Share], *, whole: bool) -> Merged | None:
        """Return the body of a frame; None for an update that has nothing to say. All shares are ``whole`` or none."""
        rows, gone, ending = self._merge_shared(window, shares, whole)
        rows += [share.rows for share in shares if share.rows]
        gone += [share.gone for share in shares if share.gone]
        if not (whole or rows or gone):
            return None
        partial = sorted({key for share in shares for key in share.partial})
        told = [b',"partial":', orjson.dumps(partial)] if partial else []
        parts = [b'"data":[', b",".join(rows), b'],"gone":[', b",".join(gone), b"]", *told]
        return Merged(parts, ending or any(share.ending for share in shares))

    def _merge_shared(self, window: int, shares: Sequence[Share], whole: bool) -> tuple[list[bytes], list[bytes], bool]:
        rows, gone, ending = [], [], False
        for name, held in _by_name(shares).items():
            key, field, by = name
            count = sum(row.partial.count for row in held)
            changed = any(row.changed for row in held)
            if changed or name not in self._said[window]:
                self._said[window][name] = self._row(window, name, count, held)
            if (count > 0 or key is None) if whole else changed:
                rows.append(self._said[window][name])
                ending |= key is not None and not count
            elif not count and not whole and any(row.gone for row in held):
                gone.append(orjson.dumps([key, field, by] if self._several else [key, field]))
        return rows, gone, ending

    def _row(self, window: int, name: Name, count: int, held: Sequence[SharedRow]) -> bytes:
        key, field, by = name
        figures = np.empty((MOMENTS + len(self._percents), 0))
        if field is not None:
            figures = merged([row.partial for row in held], self._percents)[:, None]
        start = counts_to_json(np.array([count]), self._windows[window].length / 1_000)
        end = [orjson.dumps(by)] if self._several else None
        head = orjson.dumps([key, field])[:-1]
        return Pieces([head], start, figures, np.array([field is not None]), end).join()


def _by_name(shares: Sequence[Share]) -> dict[Name, list[SharedRow]]:
    found: dict[Name, list[SharedRow]] = {}
    for share in shares:
        for row in share.shared:
            found.setdefault(row.name, []).append(row)
    return found
