"""HyperLogLog cells and codes of values that are named by numbers."""

import numpy as np

from pushsvc.stats.values.dictionary import cells_of
from pushsvc.stats.values.distinct import SHIFT

NO_CELLS = np.zeros(1, np.int64)
KNOWN = [np.zeros(0, np.int64)]


def cells(numbers):
    """Return the cells of texts that are named by numbers from 0 on."""
    numbers = np.asarray(numbers)
    have, need = len(KNOWN[0]), int(numbers.max()) + 1
    if need > have:
        more = cells_of([b"%d" % number for number in range(have, need)])
        KNOWN[0] = np.concatenate([KNOWN[0], more])
    return KNOWN[0][numbers]


def codes(row, marks):
    return np.unique((row << SHIFT) | marks)
