"""Conditions of ``where``."""

from __future__ import annotations

import pytest

from pushsvc.errors import InvalidParameter
from pushsvc.event.conditions import LONGEST, MOST_VALUES, SEARCHED, parse_condition

DATA = {"dish": "Pizza, large", "n": 3, "ok": True, "note": "Too SALTY, heiß", "x": "in(a,b)", "a b": 1}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n<=3", True),
        ("n>=4", False),
        ("dish=Pizza, large", True),
        ("a b=1", True),
        ("note~salty", True),
        ("note~HEISS", True),
        ('note~"salty, h"', True),
        ("note~bland", False),
        ("note~", True),
        ("n~3", False),
        ("absent~", False),
        ('dish in(soup,"Pizza, large")', True),
        ("dish=in(soup,pasta)", False),
        ("n in(1, 2 ,3)", True),
        ("n=in(1,2)", False),
        ("n!=in(1,2)", True),
        ("absent!=in(1)", True),
        ("absent in(1)", False),
        ("n in()", False),
        ("ok in(true)", True),
        ("ok in(1)", False),
        ('x="in(a,b)"', True),
        ("x=in(a,b)", False),
        ("note>in(", False),
    ],
)
def test_a_condition_holds_or_not(text: str, expected: bool) -> None:
    assert parse_condition(text)(DATA) is expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rating", "is not a field"),
        ("~a", "is not a field"),
        ("in(a)", "is not a field"),
        (" in(a)", "is not a field"),
        ("dish in(a", "is not a field"),
        ('n in(1,"x)', "stand in double quotes"),
        ("ok<true", "have no order"),
        ("n=" + "x" * LONGEST, f"at most {LONGEST}"),
        ("n in(" + ",".join("1" * (MOST_VALUES + 1)) + ")", f"more than {MOST_VALUES} values"),
    ],
)
def test_what_is_no_condition_is_named(text: str, words: str) -> None:
    with pytest.raises(InvalidParameter, match=words):
        parse_condition(text)


def test_a_search_looks_at_the_beginning_of_a_long_text() -> None:
    text = "x" * (SEARCHED - 1) + "yz"
    assert parse_condition("t~xy")({"t": text})
    assert not parse_condition("t~z")({"t": text})
