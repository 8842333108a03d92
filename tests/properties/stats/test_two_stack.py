"""The rolling merge against all panes merged anew, whatever comes when."""

import numpy as np
import pytest

from support.accounts.two_stack import COLUMNS, PANES, Account
from support.effort import rounds


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
