"""The containers of docker-compose.yml: they come up, scale, survive kills and an upgrade, and leave nothing."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest

from pushsvc.client import Client
from support.ports import free_port
from support.waiting import DEADLINE, until

ROOT = Path(__file__).parents[2]
PROJECT = f"pushsvc-test-{os.getpid()}"
SERVICES = {"redis", "web", "aggregator", "demo"}


class Compose:
    """The stack under a project name, a port and a password of its own."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._override = folder / "override.yml"
        self.configure(f"127.0.0.1:{self.port}:8000")

    def configure(self, port: str, release: str = "1") -> None:
        """Publish the web service at a port. Another ``release`` makes new containers, as a new image does."""
        label = f"labels: {{ release: '{release}' }}"
        self._override.write_text(
            f"services:\n  web:\n    ports: !override ['{port}']\n    {label}\n  aggregator:\n    {label}\n"
        )

    def run(self, *words: str, seconds: float = 540) -> str:
        """Run ``docker compose``; return what it prints."""
        files = ["-f", str(ROOT / "docker-compose.yml"), "-f", str(self._override)]
        command = ["docker", "compose", "-p", PROJECT, *files, *words]
        environment = os.environ | {"REDIS_PASSWORD": "ofThisTest"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=environment)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def up(self, *options: str) -> None:
        """Start what is missing or changed, and wait until all of it is healthy."""
        self.run("up", "--detach", "--wait", *options)

    def states(self) -> list[tuple[str, str]]:
        """Return the service and health of each container."""
        lines = self.run("ps", "--all", "--format", "json").splitlines()
        return sorted((one["Service"], one["Health"]) for one in map(json.loads, lines))

    def address(self, index: int) -> str:
        """Return the URL of one of several web containers."""
        return f"http://{self.run('port', '--index', str(index), 'web', '8000').strip()}"


def remains() -> str:
    label = f"label=com.docker.compose.project={PROJECT}"
    kinds: Sequence[Sequence[str]] = (("ps", "--all"), ("volume", "ls"), ("network", "ls"))
    commands = [["docker", *kind, "--quiet", "--filter", label] for kind in kinds]
    return "".join(subprocess.run(one, capture_output=True, text=True, timeout=60).stdout for one in commands)


@pytest.fixture(scope="module")
def compose(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    if os.environ.get("PUSHSVC_TEST_CONTAINERS") != "1":
        pytest.skip(
            "this run leaves containers out, as they need the machine for themselves: PUSHSVC_TEST_CONTAINERS=1"
        )
    if shutil.which("docker") is None or subprocess.run(["docker", "info"], capture_output=True).returncode:
        pytest.skip("no Docker engine runs here")
    stack = Compose(tmp_path_factory.mktemp("compose"))
    try:
        stack.up("--build")
        yield stack
    finally:
        stack.run("down", "--volumes", "--timeout", "30")
    assert not remains(), "docker compose down left something"


@contextmanager
def producing(url: str, topic: str) -> Iterator[list[int]]:
    """Publish numbered events until the block ends; collect the numbers of those that were acknowledged."""
    acknowledged: list[int] = []
    end = threading.Event()

    def publish() -> None:
        for number in itertools.count():
            while not post(url, topic, number):
                if end.wait(0.1):
                    return
            acknowledged.append(number)
            if end.wait(0.01):
                return

    thread = threading.Thread(target=publish, daemon=True)
    thread.start()
    try:
        yield acknowledged
    finally:
        end.set()
        thread.join(DEADLINE)
        assert not thread.is_alive()


def post(url: str, topic: str, number: int) -> bool:
    """Return whether an event was acknowledged. Its id makes a repetition harmless."""
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps({"id": str(number), "key": "k", "number": number})
    with closing(HTTPConnection(host, int(port), timeout=10)) as connection:
        try:
            connection.request("POST", f"/v1/topics/{topic}/events", body, {"Content-Type": "application/json"})
            status = connection.getresponse().status
        except (OSError, HTTPException):
            return False
    assert status in (202, 502, 503), status
    return status == 202


def numbers_seen(url: str, topic: str, last: int) -> list[int]:
    """Return the numbers of the events of a stream, from the first to the ``last``."""
    seen: list[int] = []
    with Client(url, patience=DEADLINE) as client, closing(client.events(topic, last_id="earliest")) as messages:
        for message in messages:
            seen.append(json.loads(message.data)["number"])
            if seen[-1] == last:
                break
    return seen


def test_all_services_become_healthy_and_the_demo_is_counted(compose: Compose) -> None:
    assert compose.states() == sorted((service, "healthy") for service in SERVICES)
    with Client(compose.url) as client:
        assert client.table("flights", window="1m", at_least=1)["count"].max() > 0


def test_two_of_each_share_topics(compose: Compose) -> None:
    compose.configure("127.0.0.1::8000")
    compose.up("--scale", "web=2", "--scale", "aggregator=2")
    assert compose.states() == sorted(
        [*((service, "healthy") for service in SERVICES), ("web", "healthy"), ("aggregator", "healthy")]
    )
    one, other = compose.address(1), compose.address(2)
    for number in range(20):
        assert post(one if number % 2 else other, "shared", number)
    assert numbers_seen(one, "shared", 19) == numbers_seen(other, "shared", 19) == list(range(20))
    compose.configure(f"127.0.0.1:{compose.port}:8000")
    compose.up()
    assert compose.states() == sorted((service, "healthy") for service in SERVICES)


@pytest.mark.parametrize("service", ["web", "aggregator", "redis"])
def test_a_killed_service_costs_no_acknowledged_event(compose: Compose, service: str) -> None:
    topic = f"killed-{service}"
    with producing(compose.url, topic) as acknowledged:
        until(lambda: len(acknowledged) >= 20)
        compose.run("kill", "--signal", "KILL", service)
        compose.up()
        before = len(acknowledged)
        until(lambda: len(acknowledged) >= before + 20)
    assert numbers_seen(compose.url, topic, acknowledged[-1]) == acknowledged, "all of them, once, in their order"
    with Client(compose.url) as client:
        table = client.table(topic, window="15m", key="k", field="number", at_least=len(acknowledged))
    assert list(table["count"]) == [len(acknowledged)]


def test_an_upgrade_in_place_costs_no_event_and_no_stream(compose: Compose) -> None:
    seen: list[list[int]] = []
    with producing(compose.url, "upgraded") as acknowledged:
        until(lambda: len(acknowledged) >= 20)
        compose.configure(f"127.0.0.1:{compose.port}:8000", release="2")
        watcher = threading.Thread(
            target=lambda: seen.append(numbers_seen(compose.url, "upgraded", 10**9 - 1)), daemon=True
        )
        watcher.start()
        compose.up()
        before = len(acknowledged)
        until(lambda: len(acknowledged) >= before + 20)
    assert post(compose.url, "upgraded", 10**9 - 1)
    watcher.join(DEADLINE)
    assert seen == [[*acknowledged, 10**9 - 1]], "one stream, which was cut and resumed"
