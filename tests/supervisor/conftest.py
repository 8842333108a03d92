from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.parent import Parent


@pytest.fixture
def parents(tmp_path: Path) -> Iterator[Any]:
    started: list[Parent] = []

    def start(*arguments: str, **options: Any) -> Parent:
        parent = Parent(tmp_path, *arguments, **options)
        started.append(parent)
        return parent

    yield start
    for parent in started:
        parent.process.kill()
        parent.process.wait()
