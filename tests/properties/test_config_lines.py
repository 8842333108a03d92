"""The line that an error of ``pushsvc.toml`` names is the line with the key."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from pushsvc.config.toml_lines import line_of

Path = tuple[str, ...]

NAMES = st.one_of(
    st.sampled_from("abc"),
    st.text("ab-_1", min_size=1, max_size=3),
    st.sampled_from(["orders.*", "a b", "ä", "#", "[a]", "a = 1", "'", '"', "\n", "="]),
)
SCALARS = ["1", "true", "'#'", '"]"', '"\\""', "''", "1979-05-27T07:32:00Z", "0x1F", "inf", "[]", "{}", "['[', ']']"]
SEVERAL_LINES = [
    "[\n  1, # ]\n\n  2,\n]",
    "[ # '''\n[\n1]\n]",
    '"""\na = 1\n[b]\n"""',
    "'''\n\n[[a]]\nb = '\n'''",
    '"""x \\\n  """',
    "'''a'''",
]


def spelled(name: str, literal: bool) -> str:
    """Return a name as a key of a document."""
    if name.isascii() and name.replace("-", "").replace("_", "").isalnum():
        return name
    if literal and "'" not in name and "\n" not in name:
        return f"'{name}'"
    return json.dumps(name, ensure_ascii=False)


class Document:
    """A document that is written statement by statement; ``lines`` has the line that first names each path."""

    def __init__(self) -> None:
        self.text = ""
        self.lines: dict[Path, int] = {}

    def write(self, text: str, paths: list[Path]) -> None:
        for path in paths:
            for length in range(1, len(path) + 1):
                self.lines.setdefault(path[:length], self.text.count("\n") + 1)
        self.text += text


@st.composite
def documents(draw: st.DrawFn) -> Document:
    document = Document()
    taken: set[Path] = set()
    break_ = draw(st.sampled_from(["\n", "\r\n"]))

    def gap() -> None:
        document.write(draw(st.sampled_from(["", "\n", "# a = 1\n", "  # [a]\n\n", '# """\n'])), [])

    def dotted(path: Path) -> str:
        return draw(st.sampled_from([".", " . "])).join(spelled(name, draw(st.booleans())) for name in path)

    def keys(table: Path) -> None:
        for name in draw(st.lists(NAMES, max_size=3, unique=True)):
            if any(one[: len(table) + 1] == (*table, name) for one in taken):
                continue
            gap()
            path = (*table, name, *draw(st.lists(NAMES, max_size=2)))
            taken.add(path)
            value, inner = draw(st.sampled_from([one_value, inline_table]))(draw)
            indent = draw(st.sampled_from(["", "  ", "\t"]))
            line = f"{indent}{dotted(path[len(table) :])} = {value} # end\n"
            document.write(line, [path, *((*path, name) for name in inner)])

    keys(())
    for path in draw(st.lists(st.lists(NAMES, min_size=1, max_size=3).map(tuple), max_size=4, unique=True)):
        if any(one[: len(path)] == path[: len(one)] for one in taken):
            continue
        taken.add(path)
        gap()
        left, right = draw(st.sampled_from([("[", "]"), ("[ ", " ]"), ("[[", "]]")]))
        document.write(f"{left}{dotted(path)}{right}\n", [path])
        keys(path)
    document.text = document.text.replace("\n", break_)
    return document


def one_value(draw: Callable[[Any], Any]) -> tuple[str, list[str]]:
    return draw(st.sampled_from(SCALARS + SEVERAL_LINES)), []


def inline_table(draw: Callable[[Any], Any]) -> tuple[str, list[str]]:
    names = draw(st.lists(NAMES, max_size=3, unique=True))
    pairs = (f"{spelled(name, True)} = {draw(st.sampled_from(SCALARS))}" for name in names)
    return "{" + ", ".join(pairs) + "}", names


@given(documents(), st.lists(NAMES, min_size=1, max_size=4).map(tuple))
def test_every_key_is_found_on_the_line_that_first_names_it(document: Document, other: Path) -> None:
    tomllib.loads(document.text)
    for path, line in document.lines.items():
        assert line_of(document.text, path) == line
    assert line_of(document.text, other) == document.lines.get(other)


@given(st.text(max_size=50), st.lists(NAMES, min_size=1, max_size=2))
@example("a = [", ["a"])
def test_any_text_is_searched_without_an_error(text: str, path: list[str]) -> None:
    line_of(text, path)
