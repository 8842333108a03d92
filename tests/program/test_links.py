"""Every relative link and image of every text leads to a file, and its fragment to a heading of that file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXTS = sorted(
    path
    for folder in (ROOT, ROOT / "deploy", ROOT / "docs", ROOT / "docs" / "decisions")
    for path in folder.glob("*.md")
)


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_heading(text: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text.read_text()):
        path, _, fragment = target.partition("#")
        if "://" in path:
            continue
        file = text.parent / path if path else text
        assert file.exists(), target
        if fragment:
            assert fragment in anchors(file.read_text()), target


def test_every_document_is_linked_from_another() -> None:
    linked = {
        (text.parent / target.partition("#")[0]).resolve()
        for text in TEXTS
        for target in re.findall(r"\]\(([^)\s:]+)\)", text.read_text())
        if not target.startswith("#")
    }
    assert {text.resolve() for text in TEXTS} - linked == {ROOT / "README.md"}


def anchors(text: str) -> list[str]:
    """Return the fragments that GitHub gives the headings of a text."""
    without_code = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return [
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", without_code, re.MULTILINE)
    ]
