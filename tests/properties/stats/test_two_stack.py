"""The two-stack merge against a new merge of all panes, for late values and jumps of the head."""

import numpy as np
import pytest

from support.effort import rounds
from support.reference.two_stack import COLUMNS, PANES, CheckedStack


@pytest.mark.parametrize("phase", [0, 3])
@pytest.mark.parametrize("late", [0.0, 0.6])
def test_two_stack_equals_the_merge_of_its_panes(phase, late):
    random = np.random.default_rng(phase)
    checked = CheckedStack(phase)
    for _ in range(rounds(800)):
        size = int(random.integers(1, 9))
        columns, values = random.integers(0, COLUMNS, size), random.integers(-800, 800, size) / 8
        pane = checked.head - int(random.integers(0, PANES)) if random.random() < late else None
        checked.add(columns, values, pane)
        checked.check()
        if random.random() < 0.5:
            checked.advance(int(random.choice([1, 1, 1, 2, 5, 6, 7, 8, 30])))
            checked.check()
