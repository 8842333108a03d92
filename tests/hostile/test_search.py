"""The search for costly requests: its requests are within the limits, and what it prints can be sent again."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from hostile.search.grammar import BODY, KINDS
from hostile.search.recipe import Recipe, Sender, expand
from hostile.search.topics import KEY
from pushsvc.event import Limits

HEAD, TARGET = 32_768, 8_192
MADE = 5


def test_a_text_is_expanded() -> None:
    assert expand(["[", ['{"k":~~}', ",", 2], ["a", ["b", 2]], "]"]) == '[{"k":0},{"k":1},abb]'


@pytest.mark.parametrize("kind", KINDS)
def test_requests_are_within_the_limits_and_can_be_repeated(kind: str) -> None:
    sender = Sender("http://127.0.0.1:8000", KEY, "A" * 20)
    limits = Limits()

    @settings(
        max_examples=MADE, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(KINDS[kind])
    def check(recipe: Recipe) -> None:
        sent = sender.bytes_of(recipe)
        head, _, body = sent.partition(b"\r\n\r\n")
        assert len(head) <= HEAD
        assert len(head.split(b" ")[1]) <= TARGET
        assert len(body) <= BODY + 100_000 <= limits.body
        again = Recipe.parse(str(recipe))
        assert (again.method, expand(again.target)) == (recipe.method, expand(recipe.target))
        assert [(name, expand(text)) for name, text in again.headers] == [
            (name, expand(text)) for name, text in recipe.headers
        ]
        assert (again.body is None) is (recipe.body is None)
        assert expand(again.body or "") == expand(recipe.body or "")

    check()
