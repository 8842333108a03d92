"""Every example that ``make examples`` runs has a test of that command."""

from __future__ import annotations

from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("name", sorted(path.parent.name for path in EXAMPLES.glob("*/run.py")))
def test_an_example_has_a_test_and_a_place_among_the_articles(name: str) -> None:
    assert "run.py" in Path(__file__).with_name(f"test_{name}.py").read_text()
    assert f"examples/{name}/run.py" in (EXAMPLES / name / "README.md").read_text()
    assert f"examples/{name}/run.py" in (EXAMPLES.parent / "docs/articles.md").read_text()
