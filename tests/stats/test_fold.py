"""The rolling merge against all panes merged anew, whatever comes when."""

import numpy as np
import pytest

from effort import rounds
from pushsvc.stats.fold import Fold, Part
from pushsvc.stats.moments import describe, reduce, runs_of

PANES, COLUMNS = 7, 5


class Account:
    """All values of each pane and column, kept plainly."""

    def __init__(self, phase):
        self.head = 100
        self.fold = Fold(PANES, self.head, phase)
        self.fold.reserve(COLUMNS)
        self.values = {}

    def add(self, columns, values, pane=None):
        order = np.argsort(columns, kind="stable")
        starts = runs_of(columns[order])
        own, moments = columns[order][starts], reduce(values[order], starts)
        if pane is None:
            self.fold.add(Part(own.astype(np.uint16), moments))
        else:
            self.fold.add_late(np.full(len(own), pane), own, moments)
        for column, value in zip(columns.tolist(), values.tolist(), strict=True):
            self.values.setdefault((self.head if pane is None else pane, column), []).append(value)

    def advance(self, panes):
        self.head += panes
        self.fold.advance(self.head)

    def check(self):
        columns = np.arange(COLUMNS)
        moments = self.fold.read(columns)
        figures = describe(moments)
        for column in columns.tolist():
            inside = [
                value
                for (pane, own), values in self.values.items()
                if own == column and self.head - PANES < pane <= self.head
                for value in values
            ]
            assert moments.count[column] == len(inside)
            if inside:
                assert figures[[0, 2, 3], column].tolist() == [sum(inside), min(inside), max(inside)]
            if len(inside) > 1:
                assert figures[4, column] == pytest.approx(np.std(inside, ddof=1), rel=1e-12)


@pytest.mark.parametrize("phase", [0, 3])
@pytest.mark.parametrize("late", [0.0, 0.6])
def test_a_fold_says_what_is_in_its_panes(phase, late):
    random = np.random.default_rng(phase)
    account = Account(phase)
    for _ in range(rounds(800)):
        size = int(random.integers(1, 9))
        columns, values = random.integers(0, COLUMNS, size), random.integers(-800, 800, size) / 8
        pane = account.head - int(random.integers(0, PANES)) if random.random() < late else None
        account.add(columns, values, pane)
        account.check()
        if random.random() < 0.5:
            account.advance(int(random.choice([1, 1, 1, 2, 5, 6, 7, 8, 30])))
            account.check()


def test_a_spike_leaves_nothing_behind():
    account = Account(0)
    for pane in range(3 * PANES):
        account.add(np.array([0, 0]), np.array([1e15 if pane == 2 else 0.125, 0.25]))
        account.advance(1)
    assert describe(account.fold.read(np.array([0])))[4, 0] == pytest.approx(
        np.std([0.125, 0.25] * (PANES - 1), ddof=1), rel=1e-14
    )


def test_columns_can_be_forgotten():
    account = Account(0)
    for pane in range(20):
        account.add(np.array([0, 1]), np.array([1.0, 2.0]), None if pane % 3 else account.head - pane % 5)
        account.advance(1)
        if pane == 15:
            account.fold.discard(np.array([1]))
            account.values = {name: values for name, values in account.values.items() if name[1] != 1}
        account.check()
