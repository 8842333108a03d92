"""The embedded server: real processes that are really killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis

from pushsvc.broker.embedded import EmbeddedServer, find_binary, runnable
from pushsvc.errors import StartupError
from support.ports import free_port
from support.waiting import until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    server = EmbeddedServer(tmp_path / "data")
    server.start()
    yield server
    server.stop()


def is_gone(pid: int) -> bool:
    """Return whether a process has ended. One that no parent reaps may stay as a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z"


def connect(server: EmbeddedServer) -> redis.Redis:
    return redis.Redis.from_url(server.url)


def test_the_server_is_private_and_durable(server: EmbeddedServer) -> None:
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


def test_a_killed_server_can_be_started_again(server: EmbeddedServer) -> None:
    with connect(server) as client:
        client.set("kept", "yes")
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    until(lambda: not server.alive())
    server.start()
    with connect(server) as client:
        assert client.get("kept") == b"yes"


def test_a_second_server_names_the_process_that_holds_the_folder(server: EmbeddedServer) -> None:
    with pytest.raises(StartupError) as caught:
        EmbeddedServer(server.data_dir).start(wait=0.1)
    assert f"pushsvc process {os.getpid()}, its server {server.pid}" in str(caught.value)
    assert str(server.data_dir) in str(caught.value)
    with connect(server) as client:
        assert client.ping()


@pytest.mark.parametrize("watchdog", [False, True], ids=["kernel", "watchdog"])
def test_the_server_ends_with_a_killed_parent_and_frees_its_folder(tmp_path: Path, watchdog: bool) -> None:
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


@pytest.mark.parametrize("temporary", ["t", "t" * 90])
def test_a_long_path_moves_only_the_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, temporary: str) -> None:
    """Also where temporary files have long paths, as on macOS."""
    (tmp_path / temporary).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / temporary))
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


def test_the_data_path_may_have_special_characters(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "my d'a\"t\\a % ?#ü")
    server.start()
    try:
        with connect(server) as client:
            assert client.ping()
    finally:
        server.stop()


def test_a_port_and_options_are_applied(tmp_path: Path) -> None:
    port = free_port()
    server = EmbeddedServer(tmp_path, port=port, options={"appendonly": "no"})
    server.start()
    try:
        assert server.url == f"redis://127.0.0.1:{port}/0"
        with connect(server) as client:
            assert client.config_get("appendonly") == {"appendonly": "no"}
    finally:
        server.stop()


def test_a_failed_start_shows_the_servers_output(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path, options={"appendfsync": "sometimes"})
    with pytest.raises(StartupError, match="must be one of"):
        server.start()
    assert not server.alive()


def test_a_file_is_refused_as_data_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError, match="data folder"):
        EmbeddedServer(tmp_path / "file").start()


def test_a_binary_without_execute_permission_is_copied(tmp_path: Path) -> None:
    bare = tmp_path / "valkey-server"
    bare.write_bytes(b"#!/bin/sh\n")
    bare.chmod(0o600)
    data = tmp_path / "data"
    data.mkdir()
    copy = runnable(bare, data)
    assert copy.parent == data
    assert os.access(copy, os.X_OK)
    assert runnable(find_binary(), data) == find_binary()


def test_a_full_disk_is_an_error_with_its_reason(tmp_path: Path) -> None:
    """No server stays behind, and the folder works once there is room."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("mounting needs root")
    try:
        (tmp_path / "data").mkdir()
        full = tmp_path / "full"
        with suppress(OSError):
            full.write_bytes(bytes(2_000_000))
        server = EmbeddedServer(tmp_path / "data")
        with pytest.raises(StartupError, match=f"cannot write to the data folder {tmp_path}/data: No space left"):
            server.start()
        assert not server.alive()
        full.unlink()
        server.start()
        server.stop()
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)
