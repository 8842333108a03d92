"""One cluster for each file of tests; a test that ends one of its servers starts it again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.fleet import Fleet
from support.stack import Stack


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Three primaries with a replica each."""
    fleet = Fleet(tmp_path_factory.mktemp("cluster"))
    try:
        fleet.form_cluster()
        yield fleet
    finally:
        fleet.close()


@pytest.fixture(scope="session")
def site(cluster: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A web and an aggregator process over the cluster."""
    with Stack(cluster.cluster_url, "site:", tmp_path_factory.mktemp("site")) as stack:
        stack.start_aggregator()
        stack.start_web()
        yield stack
