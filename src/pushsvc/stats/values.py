"""What is told of the values of fields, text and all: how many different ones, the most frequent, the first, the last.

Values come with the rows whose events are counted (see rolling.py) and take the same ways: into the head grain, into
panes of the windows that still have them, or aside until their pane comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pushsvc.stats.distinct import SHIFT, Distinct
from pushsvc.stats.ends import Firsts, Lasts
from pushsvc.stats.frequent import Frequent
from pushsvc.stats.moments import Counts, Index, Ints, runs_of
from pushsvc.stats.names import is_exact, length_of
from pushsvc.stats.vocabulary import SKETCHED, UNTRACKED, Vocabulary
from pushsvc.stats.window import Window

Chunk = tuple[Ints, Ints, Ints]
"""Times (ms), rows and numbers of values."""


class Values:
    """The values of rows in several windows. ``statistics`` names what is wanted of them, ``most`` how many values of a
    field are followed one by one; ``grain`` is in ms."""

    def __init__(self, windows: Sequence[Window], grain: int, statistics: Sequence[str], most: int) -> None:
        self.vocabulary = Vocabulary(most)
        self.statistics = tuple(statistics)
        self._windows = tuple(windows)
        self._grain = grain
        self._most = max((length for length in map(length_of, statistics) if length), default=0)
        self._distinct = Distinct(len(windows)) if "distinct" in statistics else None
        self._frequent = Frequent(len(windows)) if self._most else None
        self._firsts = Firsts(windows) if "first" in statistics else None
        self._lasts = Lasts(len(windows)) if "last" in statistics else None
        self._aside: list[Chunk] = []
        self._future: list[list[Chunk]] = [[] for _ in windows]

    @property
    def bytes(self) -> int:
        """Size of what is held, nearly."""
        parts = (self._distinct, self._frequent, self._firsts, self._lasts)
        chunks = [*self._aside, *(chunk for chunks in self._future for chunk in chunks)]
        waiting = sum(array.nbytes for chunk in chunks for array in chunk)
        return self.vocabulary.bytes + waiting + sum(part.bytes for part in parts if part is not None)

    def reserve(self, rows: int) -> None:
        """Make room for so many rows."""
        for ends in (self._firsts, self._lasts):
            if ends is not None:
                ends.reserve(rows)

    @property
    def nothing(self) -> list[Any]:
        """What the columns say of rows without values: nothing, and that nothing is approximate."""
        near = [] if all(map(is_exact, self.statistics)) else [False]
        return [*[None] * len(self.statistics), *near]

    # -- in

    def put(self, times: Ints, rows: Index, numbers: Ints) -> None:
        """Put values aside until they are settled, with the events of their rows."""
        self._aside.append((times, rows.astype(np.int64), numbers))

    def settle(self, head: int, panes: Sequence[int], total: Index) -> None:
        """Take in what was put aside: ``head`` is the grain at the head and ``panes`` those of the windows; a value
        counts in its own row and in that row's ``total`` [R]."""
        if not self._aside:
            return
        aside, self._aside = self._aside, []
        chunk = _concatenated(aside)
        now = chunk[0] // self._grain == head
        if now.all():
            self._add(panes, chunk, total)
            return
        if now.any():
            self._add(panes, _chosen(chunk, now), total)
        apart = _with_totals(_chosen(chunk, ~now), total)
        for window in range(len(self._windows)):
            self._add_apart(window, panes[window], apart)

    def _add(self, panes: Sequence[int], chunk: Chunk, total: Index) -> None:
        """Add values of the head grain."""
        if self._distinct is not None:
            self._distinct.add(self._codes_of(chunk, total), np.array(panes))
        if all(part is None for part in (self._frequent, self._firsts, self._lasts)):
            return
        times, rows, numbers = _with_totals(chunk, total)
        if self._frequent is not None:
            self._frequent.add(rows, self._tracked(numbers))
        if self._firsts is not None:
            self._firsts.add(rows, times, numbers)
        if self._lasts is not None:
            self._lasts.add(range(len(self._windows)), rows, times, numbers)

    def _codes_of(self, chunk: Chunk, total: Index) -> Ints:
        """Return codes in order, each once: those of totals are derived from what is left of the others."""
        _, rows, numbers = chunk
        codes = _unique((rows << SHIFT) | self.vocabulary.mark[numbers])
        rows = codes >> SHIFT
        totals = total[rows].astype(np.int64)
        keyed = totals != rows
        return _unique(np.concatenate([codes, codes[keyed] + ((totals[keyed] - rows[keyed]) << SHIFT)]))

    def _add_apart(self, window: int, head: int, chunk: Chunk) -> None:
        """Add values that are late, or early, to the panes of a window that have them; keep what is still to enter."""
        panes = chunk[0] // self._windows[window].pane
        early = panes > head
        if early.any():
            self._future[window].append(_chosen(chunk, early))
        there = (panes > head - self._windows[window].panes) & ~early
        if not there.any():
            return
        panes = panes[there]
        times, rows, numbers = _chosen(chunk, there)
        if self._distinct is not None:
            self._distinct.add_late(window, (rows << SHIFT) | self.vocabulary.mark[numbers], panes)
        if self._frequent is not None:
            self._frequent.add_late(window, panes, rows, self._tracked(numbers))
        if self._firsts is not None:
            self._firsts.add_late(window, rows, times, numbers)
        if self._lasts is not None:
            self._lasts.add([window], rows, times, numbers)

    def _tracked(self, numbers: Ints) -> Ints:
        return np.where(self.vocabulary.mark[numbers] < SKETCHED, numbers, UNTRACKED)

    # -- the head

    def close(self, panes: list[int]) -> None:
        """Close the head grain, which was in these panes of the windows. All is settled."""
        if self._frequent is not None:
            self._frequent.close(panes)
        if self._firsts is not None:
            self._firsts.close(panes)

    def advance(self, window: int, closed: int, head: int, left: Index, count: Counts) -> None:
        """Let a window end with pane ``head`` after ``closed``. Something of rows ``left`` it, ``count`` [R] is what
        rows still have."""
        oldest = head - self._windows[window].panes + 1
        if self._distinct is not None:
            self._distinct.advance(window, oldest)
        if self._frequent is not None:
            self._frequent.advance(window, closed, oldest)
        if self._firsts is not None:
            self._firsts.advance(window, oldest, count)
        if self._lasts is not None:
            self._lasts.forget(window, left[count[left] == 0])
        waiting, self._future[window] = self._future[window], []
        for chunk in waiting:
            self._add_apart(window, head, chunk)

    def sweep(self) -> None:
        """Forget values that nobody holds. All is settled."""
        held = np.zeros(self.vocabulary.size, np.bool_)
        for part in (self._distinct, self._frequent, self._firsts, self._lasts):
            if part is not None:
                part.hold(held)
        for _, _, numbers in [chunk for chunks in self._future for chunk in chunks]:
            held[numbers] = True
        self.vocabulary.sweep(held)

    # -- out

    def read(self, window: int, rows: Ints) -> list[list[Any]]:
        """Return a column [n] for each of the statistics, and one that tells which rows are not exact if any may be."""
        vocabulary, columns = self.vocabulary, []
        near = np.zeros(len(rows), np.bool_)
        found: dict[str, list[Any]] = {}
        if self._distinct is not None:
            counts, sketched = self._distinct.read(window, rows, vocabulary.cell)
            found["distinct"] = counts.tolist()
            near |= sketched
        ranked: list[list[list[Any]]] = []
        if self._frequent is not None:
            best, missing = self._frequent.read(window, rows, self._most, vocabulary)
            ranked = [[[vocabulary.value(number), count] for number, count in one] for one in best]
            near |= missing
        for name, ends in (("first", self._firsts), ("last", self._lasts)):
            if ends is not None:
                found[name] = list(map(vocabulary.value, ends.read(window, rows).tolist()))
        for name in self.statistics:
            length = length_of(name)
            columns.append([one[:length] for one in ranked] if length else found[name])
        return [*columns, near.tolist()][: len(self.nothing)]

    def discard(self, rows: Ints, totals: Iterable[int]) -> None:
        """Forget rows, and the values of the fields whose totals are among them. All is settled."""

        def kept(held: Ints) -> NDArray[np.bool_]:
            return ~np.isin(held, rows)

        for part in (self._distinct, self._frequent, self._firsts):
            if part is not None:
                part.keep(kept)
        if self._lasts is not None:
            self._lasts.forget(slice(None), rows)
        for window, chunks in enumerate(self._future):
            chosen = [_chosen(chunk, kept(chunk[1])) for chunk in chunks]
            self._future[window] = [chunk for chunk in chosen if len(chunk[0])]
        self.vocabulary.forget(totals)


def _with_totals(chunk: Chunk, total: Index) -> Chunk:
    """Return values in the rows of their keys and in the totals of these, all in the order of the log."""
    times, rows, numbers = chunk
    totals = total[rows].astype(np.int64)
    keyed = totals != rows
    return _concatenated([(times[keyed], rows[keyed], numbers[keyed]), (times, totals, numbers)])


def _unique(codes: Ints) -> Ints:
    ordered = np.sort(codes)
    return ordered[runs_of(ordered)]


def _concatenated(chunks: Sequence[Chunk]) -> Chunk:
    times, rows, numbers = (np.concatenate(arrays) for arrays in zip(*chunks, strict=True))
    return times, rows, numbers


def _chosen(chunk: Chunk, mask: NDArray[np.bool_]) -> Chunk:
    times, rows, numbers = chunk
    return times[mask], rows[mask], numbers[mask]
