"""Errors of four ways to compute the deviation of a window: ``python benchmarks/deviation.py [PNG]``.

The values are noise with a deviation of 0.001, one a second; for 60 s they are higher by 1e9. The window is 60 s. The
exact result is computed with fractions. The script prints the greatest relative error of each way, also after the high
values have left the window, and draws the errors over time (matplotlib).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from fractions import Fraction
from math import sqrt

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pushsvc.stats.engine import Engine, EngineOptions
from pushsvc.stats.window import Window

Floats = NDArray[np.float64]
WINDOW, LENGTH = 60, 300
START = 1_700_000_000_000


def series() -> Floats:
    values = np.random.default_rng(7).normal(size=LENGTH) * 1e-3
    values[90:150] += 1e9 + 0.1
    return values


def exact(values: Floats) -> Floats:
    found = np.full(LENGTH, np.nan)
    for end in range(WINDOW, LENGTH + 1):
        inside = [Fraction(value) for value in values[end - WINDOW : end].tolist()]
        mean = sum(inside) / WINDOW
        found[end - 1] = sqrt(sum((value - mean) ** 2 for value in inside) / (WINDOW - 1))
    return found


def by_subtraction(values: Floats) -> Floats:
    """Keep the sums of x and x²: add values that enter the window, subtract values that leave it."""
    found, total, squares = np.full(LENGTH, np.nan), 0.0, 0.0
    for at, value in enumerate(values.tolist()):
        total, squares = total + value, squares + value * value
        if at >= WINDOW:
            old = float(values[at - WINDOW])
            total, squares = total - old, squares - old * old
        if at >= WINDOW - 1:
            found[at] = sqrt(max(0.0, (squares - total * total / WINDOW) / (WINDOW - 1)))
    return found


def by_pandas(values: Floats) -> Floats:
    return pd.Series(values).rolling(WINDOW).std().to_numpy()


def by_river(values: Floats) -> Floats:
    from river import stats, utils

    rolling, found = utils.Rolling(stats.Var, window_size=WINDOW), np.full(LENGTH, np.nan)
    for at, value in enumerate(values.tolist()):
        rolling.update(value)
        found[at] = sqrt(max(0.0, rolling.get()))
    return found


def by_pushsvc(values: Floats) -> Floats:
    engine, found = Engine(EngineOptions([Window.parse("1m")]), START), np.full(LENGTH, np.nan)
    topic = engine.rows.add_topic(10, 1)
    row = topic.rows(topic.field("x") or 0, topic.key_numbers(["a"]))
    for at, value in enumerate(values.tolist()):
        engine.advance(START + at * 1_000)
        engine.put(engine.begin_entry(topic, at + 1, np.array([START + at * 1_000]), None), row, np.array([value]))
        found[at] = engine.read(0, row.astype(np.int64))[4, 0]
    return found


WAYS: dict[str, Callable[[Floats], Floats]] = {
    "sums of x and x², by subtraction": by_subtraction,
    "pandas rolling().std()": by_pandas,
    "river Rolling(Var)": by_river,
    "pushsvc": by_pushsvc,
}


def errors() -> dict[str, Floats]:
    """Return the relative errors by way and second; leave out ways whose library is not installed."""
    values = series()
    truth, found = exact(values), {}
    for name, way in WAYS.items():
        try:
            found[name] = np.abs(way(values) - truth) / truth
        except ImportError as error:
            print(f"{name}: not measured: {error}")
    return found


def draw(found: dict[str, Floats], file: str) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
    for name, error in found.items():
        axes.semilogy(
            np.arange(LENGTH), np.maximum(error, 1e-17), label=name, linewidth=2 if name == "pushsvc" else 1.2
        )
    axes.axvspan(90, 150, color="0.92", label="values are raised by 1e9")
    axes.axvline(210, color="0.6", linestyle=":", label="the jump has left the window")
    axes.set(xlabel="seconds", ylabel="relative error of std", ylim=(1e-17, 1e9), xlim=(WINDOW, LENGTH))
    axes.legend(fontsize=8, loc="center right")
    figure.savefig(file, dpi=110)


def main() -> None:
    found = errors()
    print(f"pandas {pd.__version__}, numpy {np.__version__}; greatest error at any time, and after the jump has left")
    for name, error in found.items():
        print(f"{name:<36}{error[WINDOW:].max():>10.1e}{error[215:].max():>10.1e}")
    if len(sys.argv) > 1:
        draw(found, sys.argv[1])


if __name__ == "__main__":
    main()
