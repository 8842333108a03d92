"""Runs applications with the extension."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.sites import Site, Start, needs


@pytest.fixture
def site(tmp_path: Path, redis_url: str, prefix: str) -> Iterator[Start]:
    """Return a function that runs the source of an application under a server."""
    sites: list[Site] = []

    def start(source: str, server: str, **environment: str) -> Site:
        if server == "waitress":
            needs("waitress")
        (tmp_path / "shop.py").write_text(source)
        sites.append(Site(tmp_path, redis_url, prefix))
        sites[-1].run(server, **environment)
        return sites[-1]

    yield start
    for one in sites:
        one.end()
