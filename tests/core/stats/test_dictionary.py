"""The memory that the values of fields are counted with."""

import tracemalloc

import numpy as np
import pytest

from pushsvc.stats.values.dictionary import ValueDictionary

VALUES = {
    "numbers": float,
    "short texts": "value {:06}".format,
    "texts of 200 characters": "{:0200}".format,
    "longer texts": "{:0300}".format,
    "longer texts of four bytes a character": ("\N{GRINNING FACE}" * 190 + "{:0110}").format,
}


@pytest.mark.parametrize("kind", VALUES)
def test_values_count_with_the_memory_that_they_hold(kind: str) -> None:
    """Each counted as 400 bytes, and some hold 1,900: an aggregator could take four times what it counted."""
    dictionary = ValueDictionary(1_000)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for start in range(0, 20_000, 1_000):
            dictionary.numbers(0, [VALUES[kind](number) for number in range(start, start + 1_000)], False)
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert held <= dictionary.bytes <= 2 * held


def test_values_that_are_forgotten_count_no_more() -> None:
    dictionary = ValueDictionary(1_000)
    dictionary.numbers(0, ["kept"], False)
    kept = dictionary.bytes
    dictionary.numbers(0, ["swept" * 30, 7.0, "é" * 300], False)
    dictionary.numbers(1, ["forgotten"], False)
    dictionary.sweep(np.arange(dictionary.size) < 2, 1)
    dictionary.forget(np.array([1]))
    assert dictionary.bytes == kept
    assert dictionary.numbers(0, ["é" * 300], False)[0] > 0
    assert dictionary.bytes > kept
