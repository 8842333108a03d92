"""The two-stack merge, pane by pane."""

import numpy as np
import pytest

from pushsvc.stats.moments import describe
from support.reference.two_stack import PANES, CheckedStack


@pytest.mark.parametrize("phase", [0, 3])
def test_values_expire_with_their_pane_however_late_they_came(phase):
    checked = CheckedStack(phase)
    checked.add(np.array([0, 3]), np.array([0.5, 2.0]))
    for panes in (1, 2, 1, 4, 6, 30):
        checked.add(np.array([0, 1, 1]), np.array([1.0, 8.0, -4.0]))
        checked.add(np.array([0, 2]), np.array([16.0, 32.0]), checked.head - PANES + 1)
        checked.add(np.array([1]), np.array([64.0]), checked.head - 2)
        checked.check()
        checked.advance(panes)
        checked.check()
    assert checked.stack.read(np.arange(5)).count.tolist() == [0] * 5


def test_expired_spike_leaves_no_error():
    checked = CheckedStack(0)
    for pane in range(3 * PANES):
        checked.add(np.array([0, 0]), np.array([1e15 if pane == 2 else 0.125, 0.25]))
        checked.advance(1)
    assert describe(checked.stack.read(np.array([0])))[4, 0] == pytest.approx(
        np.std([0.125, 0.25] * (PANES - 1), ddof=1), rel=1e-14
    )


def test_columns_can_be_dropped():
    checked = CheckedStack(0)
    for pane in range(20):
        checked.add(np.array([0, 1]), np.array([1.0, 2.0]), None if pane % 3 else checked.head - pane % 5)
        checked.advance(1)
        if pane == 15:
            checked.stack.drop(np.array([1]))
            checked.values = {name: values for name, values in checked.values.items() if name[1] != 1}
        if pane >= 14:
            checked.check()
