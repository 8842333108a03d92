"""Commands in an empty folder, without settings of the environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("PUSHSVC_") and not name.startswith("PUSHSVC_TEST"):
            monkeypatch.delenv(name)
