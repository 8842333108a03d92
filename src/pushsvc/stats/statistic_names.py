"""What the statistics are called that may be chosen."""

from __future__ import annotations

import re

TOP = 10
"""How many of the most frequent values ``top`` has."""

_QUANTILE = re.compile("p([1-9][0-9]?)")
_TOP = re.compile("top(100|[1-9][0-9]?)?")


def percent_of(statistic: str) -> int | None:
    """Return 50 for ``p50``, None for what is no quantile."""
    found = _QUANTILE.fullmatch(statistic)
    return int(found[1]) if found else None


def length_of(statistic: str) -> int | None:
    """Return how many values ``top`` or ``top5`` has, None for what is none of these."""
    found = _TOP.fullmatch(statistic)
    return int(found[1] or TOP) if found else None


def is_of_values(statistic: str) -> bool:
    """Tell whether a statistic is one of values of any kind, not of numbers alone."""
    return statistic in ("distinct", "first", "last") or length_of(statistic) is not None


def is_exact(statistic: str) -> bool:
    """Tell whether a statistic of values is exact however many there are."""
    return statistic in ("first", "last")
