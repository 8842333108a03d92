"""What a reader of the frames holds of one window, and so what the next frame must say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pushsvc.stats.cells import widen
from pushsvc.stats.moments import Floats, Ints
from pushsvc.stats.rolling import Rolling

_ABSENT, _LIVE, _ZERO = range(3)
_FIRST_CAPACITY = 16


@dataclass(frozen=True, slots=True)
class Report:
    """Rows [n] to send with their counts [n] and figures [5, n] (sum, mean, min, max, std), and rows that are gone."""

    rows: Ints
    count: Ints
    figures: Floats
    gone: Ints

    def __bool__(self) -> bool:
        return bool(len(self.rows) or len(self.gone))


class Ledger:
    """Follows every row of window ``number`` of ``rolling``: absent, live, or last said to be zero.

    A row that becomes empty is sent once with count 0 and is gone in the next report; totals stay.
    """

    def __init__(self, rolling: Rolling, number: int) -> None:
        self._rolling = rolling
        self._number = number
        self._known: NDArray[np.uint8] = np.zeros(_FIRST_CAPACITY, np.uint8)

    def pending(self) -> bool:
        """Tell whether the next report may have something to say."""
        return bool(self._rolling.changed[self._number].any() or (self._known == _ZERO).any())

    def update(self) -> Report:
        """Report what changed since the last report, and take the marks off."""
        self._reserve()
        rows = np.flatnonzero(self._rolling.changed[self._number])
        count, figures = self._rolling.read(self._number, rows)
        live = (count > 0) | self._total(rows)
        ended = self._known == _ZERO
        ended[rows[live]] = False
        said = live | (self._known[rows] == _LIVE)
        self._known[rows[said]] = np.where(live[said], _LIVE, _ZERO)
        self._known[ended] = _ABSENT
        self._rolling.changed[self._number] = False
        return Report(rows[said], count[said], figures[:, said], np.flatnonzero(ended))

    def snapshot(self) -> Report:
        """Report all rows that are not empty, and totals; what the reader held before no longer counts."""
        self._reserve()
        rows = self._rolling.present(self._number)
        count, figures = self._rolling.read(self._number, rows)
        live = (count > 0) | self._total(rows)
        self._known[:] = _ABSENT
        self._known[rows[live]] = _LIVE
        self._rolling.changed[self._number] = False
        return Report(rows[live], count[live], figures[:, live], np.zeros(0, np.int64))

    def absent(self, rows: Ints) -> NDArray[np.bool_]:
        """Tell for each row whether the reader holds nothing of it."""
        self._reserve()
        return np.asarray(self._known[rows] == _ABSENT)

    def _total(self, rows: Ints) -> NDArray[np.bool_]:
        return np.asarray(self._rolling.rows.total[rows] == rows)

    def _reserve(self) -> None:
        if len(self._rolling.rows) > len(self._known):
            self._known = widen(self._known, len(self._rolling.rows), _ABSENT)
