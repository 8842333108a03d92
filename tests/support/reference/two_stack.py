"""A two-stack merge, and all values of its panes."""

import numpy as np
import pytest

from pushsvc.stats.arrays import runs_of
from pushsvc.stats.moments import describe, reduce
from pushsvc.stats.panes.two_stack import ColumnMoments, TwoStack

PANES, COLUMNS = 7, 5


class CheckedStack:
    """A TwoStack, and the values of each pane and column that were added to it."""

    def __init__(self, phase):
        self.head = 100
        self.stack = TwoStack(PANES, self.head, phase)
        self.stack.reserve(COLUMNS)
        self.values = {}

    def add(self, columns, values, pane=None):
        order = np.argsort(columns, kind="stable")
        starts = runs_of(columns[order])
        own, moments = columns[order][starts], reduce(values[order], starts)
        if pane is None:
            self.stack.add(ColumnMoments(own.astype(np.uint16), moments))
        else:
            self.stack.add_late(np.full(len(own), pane), own, moments)
        for column, value in zip(columns.tolist(), values.tolist(), strict=True):
            self.values.setdefault((self.head if pane is None else pane, column), []).append(value)

    def advance(self, panes):
        self.head += panes
        self.stack.advance(self.head)

    def check(self):
        columns = np.arange(COLUMNS)
        moments = self.stack.read(columns)
        statistics = describe(moments)
        for column in columns.tolist():
            inside = [
                value
                for (pane, own), values in self.values.items()
                if own == column and self.head - PANES < pane <= self.head
                for value in values
            ]
            assert moments.count[column] == len(inside)
            if inside:
                assert statistics[[0, 2, 3], column].tolist() == [sum(inside), min(inside), max(inside)]
            if len(inside) > 1:
                assert statistics[4, column] == pytest.approx(np.std(inside, ddof=1), rel=1e-12)
