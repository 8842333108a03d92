"""The embedded server: real processes, killed for real."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from pushsvc.broker.embedded import EmbeddedServer, _runnable, find_binary
from pushsvc.errors import StartupError


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    server = EmbeddedServer(tmp_path / "data")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not in {seconds} s: {what}"
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    """A process without a parent that reaps it may stay as a zombie: that is gone too."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z"


def connect(server: EmbeddedServer) -> redis.Redis:
    return redis.Redis.from_url(server.url)


def test_it_is_private_and_keeps_what_it_is_told(server: EmbeddedServer) -> None:
    with connect(server) as client:
        config = client.config_get("*")
    assert config["appendonly"] == "yes"
    assert config["appendfsync"] == "everysec"
    assert config["maxmemory-policy"] == "noeviction"
    assert config["save"] == ""
    assert config["port"] == "0"
    assert (server.data_dir / "valkey.sock").stat().st_mode & 0o777 == 0o700
    assert server.data_dir.stat().st_mode & 0o777 == 0o700


def test_data_outlives_stop_and_start(server: EmbeddedServer) -> None:
    with connect(server) as client:
        client.set("kept", "yes")
    server.stop()
    server.stop()
    assert not server.alive()
    server.start()
    with connect(server) as client:
        assert client.get("kept") == b"yes"


def test_it_can_be_started_again_after_its_own_death(server: EmbeddedServer) -> None:
    with connect(server) as client:
        client.set("kept", "yes")
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: not server.alive(), "its death is noticed")
    server.start()
    with connect(server) as client:
        assert client.get("kept") == b"yes"


def test_a_second_one_is_told_who_holds_the_folder(server: EmbeddedServer) -> None:
    with pytest.raises(StartupError) as caught:
        EmbeddedServer(server.data_dir).start(patience=0.1)
    assert f"pushsvc process {os.getpid()}, its server {server.pid}" in str(caught.value)
    assert str(server.data_dir) in str(caught.value)
    with connect(server) as client:
        assert client.ping()


@pytest.mark.parametrize("watchdog", [False, True], ids=["kernel", "watchdog"])
def test_it_dies_with_a_killed_parent_and_the_folder_opens_again(tmp_path: Path, watchdog: bool) -> None:
    if not watchdog and not sys.platform.startswith("linux"):
        pytest.skip("only Linux signals the death of a parent")
    program = (
        "import sys\nfrom pathlib import Path\nfrom pushsvc.broker.embedded import EmbeddedServer\n"
        "server = EmbeddedServer(Path(sys.argv[1]), watchdog=sys.argv[2] == 'True')\n"
        "server.start()\nprint(server.pid, flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path), str(watchdog)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        with connect(EmbeddedServer(tmp_path)) as client:
            client.set("kept", "yes")
        parent.kill()
    again = EmbeddedServer(tmp_path)
    again.start()
    try:
        assert is_gone(pid)
        with connect(again) as client:
            assert client.get("kept") == b"yes"
    finally:
        again.stop()


def test_a_long_path_moves_the_socket_only(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / ("d" * 60) / ("e" * 60))
    server.start()
    try:
        place = Path(server.url.removeprefix("unix://")).parent
        assert server.data_dir not in [place, *place.parents]
        assert place.stat().st_mode & 0o777 == 0o700
        with connect(server) as client:
            client.set("kept", "yes")
    finally:
        server.stop()
    assert not place.exists()
    assert (server.data_dir / "appendonlydir").is_dir()


def test_a_path_with_odd_characters(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "my d'a\"t\\a % ?#ü")
    server.start()
    try:
        with connect(server) as client:
            assert client.ping()
    finally:
        server.stop()


def test_tcp_and_options_on_request(tmp_path: Path, free_port: int) -> None:
    server = EmbeddedServer(tmp_path, port=free_port, options={"appendonly": "no"})
    server.start()
    try:
        assert server.url == f"redis://127.0.0.1:{free_port}/0"
        with connect(server) as client:
            assert client.config_get("appendonly") == {"appendonly": "no"}
    finally:
        server.stop()


def test_a_failing_start_repeats_the_servers_words(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path, options={"appendfsync": "sometimes"})
    with pytest.raises(StartupError, match="must be one of"):
        server.start()
    assert not server.alive()


def test_a_folder_that_cannot_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError, match="data folder"):
        EmbeddedServer(tmp_path / "file").start()


def test_a_binary_without_permission_is_run_from_a_copy(tmp_path: Path) -> None:
    bare = tmp_path / "valkey-server"
    bare.write_bytes(b"#!/bin/sh\n")
    bare.chmod(0o600)
    data = tmp_path / "data"
    data.mkdir()
    copy = _runnable(bare, data)
    assert copy.parent == data
    assert os.access(copy, os.X_OK)
    assert _runnable(find_binary(), data) == find_binary()
