"""Jobs in real processes."""

from __future__ import annotations

import pytest

from support.waiting import until


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A place for temporary files; none is left there."""
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr("tempfile.tempdir", None)
    yield place
    until(lambda: not list(place.iterdir()))
