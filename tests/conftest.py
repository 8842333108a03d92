"""Real parts for every test: one Valkey for each process that runs tests, a prefix for each test, real processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator, Iterator
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # imported where used: the core's tests start without them
    from pushsvc.broker.broker import Broker
    from pushsvc.broker.embedded import EmbeddedServer
    from support.proxy import Proxy
    from support.stack import Stack

_numbers = count()

# Failed assertions of these helpers show the compared values, as those of tests do.
pytest.register_assert_rewrite("support.reference")

FIRST = (
    "distributed/test_live_suite", "chaos", "compose", "program/test_compose", "distributed", "browser", "supervisor",
    "live", "cli", "client", "jobs", "replay", "server",
)  # fmt: skip
"""Where several processes run the tests, the longest files start first: none of them runs alone at the end."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        items.sort(key=_place)


def _place(item: pytest.Item) -> int:
    path = item.path.relative_to(Path(__file__).parent).as_posix()
    return next((place for place, begin in enumerate(FIRST) if path.startswith(begin)), len(FIRST))


REQUIRE_ALL = os.environ.get("PUSHSVC_REQUIRE_ALL") == "1"
"""Whether a test that this machine would skip fails, as in CI."""

MAY_LACK = ("this kernel ", "this Redis ", "this run ")
"""How the reasons begin by which a test is skipped even then."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if REQUIRE_ALL and report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not reason.startswith(MAY_LACK):
            report.outcome, report.longrepr = "failed", f"PUSHSVC_REQUIRE_ALL=1, but: {reason}"
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Unregister hypothesis's plugin if no test used it: its summary would import all of hypothesis."""
    if "hypothesis" not in sys.modules:
        session.config.pluginmanager.unregister(name="hypothesispytest")


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis or Valkey for the whole run: that of PUSHSVC_TEST_REDIS_URL, or an embedded one."""
    given = os.environ.get("PUSHSVC_TEST_REDIS_URL")
    if given:
        yield given
        return
    from pushsvc.broker.embedded import EmbeddedServer

    server = EmbeddedServer(tmp_path_factory.mktemp("valkey"), options={"appendfsync": "no"})
    server.start()
    yield server.url
    server.stop()


@pytest.fixture
def start_redis(tmp_path: Path) -> Iterator[Callable[..., EmbeddedServer]]:
    """Start a server of this test alone with options such as ``appendonly="no"``; it ends with the test."""
    from pushsvc.broker.embedded import EmbeddedServer

    started: list[EmbeddedServer] = []

    def start(**options: str) -> EmbeddedServer:
        started.append(EmbeddedServer(tmp_path / f"redis-{len(started)}", options=options))
        started[-1].start()
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def prefix() -> str:
    return f"test-{os.getpid()}-{next(_numbers)}:"


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room for the name of a Unix socket, which may have 107 bytes."""
    with TemporaryDirectory(prefix="pushsvc-test-") as folder:
        yield Path(folder)


@pytest.fixture
def broker(redis_url: str, prefix: str) -> Iterator[Broker]:
    from pushsvc.broker.broker import Broker

    broker = Broker(redis_url, prefix)
    yield broker
    broker.close()


@pytest.fixture
def proxy(redis_url: str) -> Iterator[Proxy]:
    """A proxy in front of the shared server."""
    from urllib.parse import urlsplit

    from support.proxy import Proxy

    url = urlsplit(redis_url)
    if url.scheme not in ("unix", "redis"):
        pytest.skip("the proxy stands in front of one server")
    proxy = Proxy(url.path if url.scheme == "unix" else (url.hostname or "", url.port or 6379))
    yield proxy
    proxy.close()


@pytest.fixture
def stack(redis_url: str, prefix: str, tmp_path: Path) -> Iterator[Stack]:
    """Processes of this test alone, by ``start_web`` and ``start_aggregator``; they end with the test."""
    from support.stack import Stack

    with Stack(redis_url, prefix, tmp_path) as running:
        yield running


@pytest.fixture
def own_server(stack: Stack) -> Stack:
    """A web process and an aggregator of this test alone, which it may stop and kill."""
    stack.start_aggregator()
    stack.start_web()
    return stack


@pytest.fixture(scope="session")
def shared_server(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A web process and an aggregator for all tests that do not harm them; each test uses its own ``topic``.

    It has more topics than a limited list shows, as after many tests: no test may need its topic among the first.
    """
    from support.stack import Stack

    with Stack(redis_url, f"test-{os.getpid()}-shared:", tmp_path_factory.mktemp("shared")) as stack:
        stack.start_aggregator()
        stack.start_web()
        for number in range(150):
            stack.post(f"a.crowd.{number}", {"n": number})
        yield stack


@pytest.fixture(scope="session")
def iterated_server(shared_server: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A server over the same Redis that iterates streams instead of handing over their sockets."""
    from support.stack import Stack

    with Stack(shared_server.redis_url, shared_server.prefix, tmp_path_factory.mktemp("iterated")) as stack:
        stack.start_iterated()
        yield stack


@pytest.fixture(params=["socket", "iterated"])
def server(request: pytest.FixtureRequest) -> Stack:
    """A server that hands sockets to the hub, and one that iterates streams: clients see no difference."""
    name = "shared_server" if request.param == "socket" else "iterated_server"
    server: Stack = request.getfixturevalue(name)
    return server


@pytest.fixture
def topic() -> str:
    return f"topic-{next(_numbers)}"
