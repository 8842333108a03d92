"""The rolling merge, pane by pane."""

import numpy as np
import pytest

from pushsvc.stats.moments import describe
from support.accounts.two_stack import PANES, Account


@pytest.mark.parametrize("phase", [0, 3])
def test_what_came_in_a_pane_in_time_or_late_leaves_with_it(phase):
    account = Account(phase)
    account.add(np.array([0, 3]), np.array([0.5, 2.0]))
    for panes in (1, 2, 1, 4, 6, 30):
        account.add(np.array([0, 1, 1]), np.array([1.0, 8.0, -4.0]))
        account.add(np.array([0, 2]), np.array([16.0, 32.0]), account.head - PANES + 1)
        account.add(np.array([1]), np.array([64.0]), account.head - 2)
        account.check()
        account.advance(panes)
        account.check()
    assert account.stack.read(np.arange(5)).count.tolist() == [0] * 5


def test_a_spike_leaves_nothing_behind():
    account = Account(0)
    for pane in range(3 * PANES):
        account.add(np.array([0, 0]), np.array([1e15 if pane == 2 else 0.125, 0.25]))
        account.advance(1)
    assert describe(account.stack.read(np.array([0])))[4, 0] == pytest.approx(
        np.std([0.125, 0.25] * (PANES - 1), ddof=1), rel=1e-14
    )


def test_columns_can_be_forgotten():
    account = Account(0)
    for pane in range(20):
        account.add(np.array([0, 1]), np.array([1.0, 2.0]), None if pane % 3 else account.head - pane % 5)
        account.advance(1)
        if pane == 15:
            account.stack.drop(np.array([1]))
            account.values = {name: values for name, values in account.values.items() if name[1] != 1}
        if pane >= 14:
            account.check()
