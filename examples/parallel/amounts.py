"""What each partition of the file goes through. Workers import this module, and not the application."""

from typing import Any

import pandas as pd

from pushsvc.jobs import Statistics


def amount(text: str) -> float:
    """Return an amount as people write it: ``€ 1,250.00``, ``1.250,00 EUR`` or ``12.5``."""
    digits = text.replace("EUR", "").strip("€ ")
    if digits[-3:-2] == ",":  # a decimal comma: points divide thousands
        digits = digits.replace(".", "").replace(",", ".")
    return float(digits.replace(",", ""))


def count(table: pd.DataFrame, wanted: Statistics, value: str) -> Any:
    """Return the state of the statistics of a partition."""
    return wanted(table.assign(**{value: table[value].map(amount, na_action="ignore").astype(float)}))
