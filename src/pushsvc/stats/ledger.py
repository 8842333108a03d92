"""What a reader of the frames holds of each window, and so what the next frame must say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pushsvc.stats.cells import FIRST_CAPACITY, widen
from pushsvc.stats.moments import Floats, Ints
from pushsvc.stats.rolling import Rolling

_ABSENT, _LIVE, _ZERO = range(3)


@dataclass(frozen=True, slots=True)
class Report:
    """What to say of several windows. Rows [n] are ordered by window, and so are those that are gone [m].

    ``figures`` [5, n] are sum, mean, min, max and std.
    """

    windows: Ints
    rows: Ints
    count: Ints
    figures: Floats
    gone_windows: Ints
    gone_rows: Ints


class Ledger:
    """Follows every row of every window of ``rolling``: absent, live, or last said to be zero.

    A row that becomes empty is said once with count 0 and is gone in the next report; totals stay.
    """

    def __init__(self, rolling: Rolling) -> None:
        self._rolling = rolling
        self._known: NDArray[np.uint8] = np.zeros((len(rolling.rings), FIRST_CAPACITY), np.uint8)

    def pending(self) -> list[bool]:
        """Tell for each window whether an update may have something to say."""
        pending: list[bool] = (self._rolling.changed() | (self._known == _ZERO).any(axis=1)).tolist()
        return pending

    def update(self, windows: Ints) -> Report:
        """Report what changed in some windows since their last report."""
        self._reserve()
        number, row = self._rolling.take_changes(windows)
        count, figures = self._rolling.read(number, row)
        live = (count > 0) | self._total(row)
        ended = np.zeros(self._known.shape, np.bool_)
        ended[windows] = self._known[windows] == _ZERO
        ended[number[live], row[live]] = False
        said = live | (self._known[number, row] == _LIVE)
        self._known[number[said], row[said]] = np.where(live[said], _LIVE, _ZERO)
        self._known[ended] = _ABSENT
        return Report(number[said], row[said], count[said], figures[:, said], *np.nonzero(ended))

    def snapshot(self, window: int) -> Report:
        """Report all rows of a window that are not empty, and totals; what the reader held before no longer counts."""
        self._reserve()
        number, row = self._rolling.present(np.array([window]))
        self._rolling.take_changes(np.array([window]))
        count, figures = self._rolling.read(number, row)
        live = (count > 0) | self._total(row)
        self._known[window] = _ABSENT
        self._known[window, row[live]] = _LIVE
        nothing = np.zeros(0, np.int64)
        return Report(number[live], row[live], count[live], figures[:, live], nothing, nothing)

    def release(self) -> None:
        """Free the rows that are empty in every window and that no reader holds."""
        self._reserve()
        unused = self._rolling.unused()
        unused = unused[(self._known[:, unused] == _ABSENT).all(axis=0)]
        if len(unused):
            self._rolling.close(unused)

    def _total(self, rows: Ints) -> NDArray[np.bool_]:
        return np.asarray(self._rolling.rows.total[rows] == rows)

    def _reserve(self) -> None:
        if len(self._rolling.rows) > self._known.shape[1]:
            self._known = widen(self._known, len(self._rolling.rows), _ABSENT)
