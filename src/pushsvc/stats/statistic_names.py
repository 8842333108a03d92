"""Names of the statistics that settings may choose."""

import re

TOP = 10  # length of the list of ``top``
_QUANTILE = re.compile("p([1-9][0-9]?)")
_TOP = re.compile("top(100|[1-9][0-9]?)?")


def percent_of(statistic: str) -> int | None:
    """Return 50 for ``p50``, None for a name of no quantile."""
    found = _QUANTILE.fullmatch(statistic)
    return int(found[1]) if found else None


def length_of(statistic: str) -> int | None:
    """Return the length of the list of ``top`` or ``top5``, None for other names."""
    found = _TOP.fullmatch(statistic)
    return int(found[1] or TOP) if found else None


def is_of_values(statistic: str) -> bool:
    """Return whether a statistic applies to values of any type, not to numbers alone."""
    return statistic in ("distinct", "first", "last") or length_of(statistic) is not None


def is_exact(statistic: str) -> bool:
    """Return whether a statistic of values is exact for any number of values."""
    return statistic in ("first", "last")
