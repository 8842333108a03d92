"""The supervisor and its children as real processes, which end in many ways."""

from __future__ import annotations

import os
import re
import signal
import socket
import sysconfig
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from pushsvc.broker.embedded import EmbeddedServer
from pushsvc.errors import StartupError
from pushsvc.supervisor.children import ChildProcess, RestartBackoff
from pushsvc.supervisor.listener import listen
from support.parent import alive, ask, child, children, environment
from support.waiting import DEADLINE, until

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="children are found through /proc")


def is_answered(port: int) -> bool:
    try:
        return ask(port, "GET", "/readyz")[0] == 200
    except OSError:
        return False


def count(port: int) -> int:
    status, frame = ask(port, "GET", "/v1/topics/t/stats")
    assert status == 200
    return next((row[2] for row in frame["data"] if row[:2] == [None, None]), 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_processes_stop_in_order_and_leave_no_files(parents: Any, tmp_path: Path, number: signal.Signals) -> None:
    parent = parents("serve", "--port", "0", "--workers", "2")
    port = parent.ready()
    family = children(parent.pid)
    assert len(family) == 4, family
    assert parent.end(number) == 0
    assert re.findall(r"(web 1|web 2|aggregator 1|embedded server) has ended", parent.output) == [
        "web 1", "web 2", "aggregator 1", "embedded server",
    ]  # fmt: skip
    assert not [pid for pid in family if alive(pid)]
    assert "Traceback" not in parent.output
    assert {path.name for path in tmp_path.iterdir()} == {"output", "pushsvc-data"}
    listen("127.0.0.1", port, patience=0).close()


@pytest.mark.parametrize("chosen", ["", "malloc"])
def test_web_processes_use_mimalloc_if_python_has_it_and_nothing_else_is_chosen(parents: Any, chosen: str) -> None:
    parent = parents("serve", "--port", "0", PYTHONMALLOC=chosen)
    parent.ready()
    expected = chosen or ("mimalloc" if sysconfig.get_config_var("WITH_MIMALLOC") else "")
    for role, allocator in [("pushsvc _web", expected), ("pushsvc _aggregator", chosen)]:
        pid = child(parent.pid, role)
        assert pid is not None
        assert environment(pid).get("PYTHONMALLOC") == allocator, role


def test_nohup_keeps_all_processes_running_after_sighup(parents: Any) -> None:
    parent = parents("serve", "--port", "0", nohup=True)
    port = parent.ready()
    family = children(parent.pid)
    parent.process.send_signal(signal.SIGHUP)
    assert ask(port, "POST", "/v1/topics/t/events", [{"x": 1}])[0] == 202
    until(lambda: count(port) == 1)
    assert children(parent.pid) == family
    assert parent.end() == 0


def test_a_killed_parent_leaves_no_orphans_and_its_data_can_be_opened(parents: Any, tmp_path: Path) -> None:
    parent = parents("serve", "--port", "0")
    port = parent.ready()
    assert ask(port, "POST", "/v1/topics/t/events", [{"x": 1}, {"x": 2}])[0] == 202
    until(lambda: count(port) == 2)
    family = children(parent.pid)
    parent.end(signal.SIGKILL)
    again = parents("serve", "--port", str(port))  # at once: the old processes may still be ending
    until(lambda: parent.output.count("pushsvc is ready") == 2 or again.process.poll() is not None)
    assert not [pid for pid in family if alive(pid)], again.output
    until(lambda: count(port) == 2)
    assert ask(port, "POST", "/v1/topics/t/events", {"x": 3})[1]["first_offset"] == 3


@pytest.mark.parametrize("role", ["_web", "_aggregator", "valkey"])
def test_a_crashed_process_is_restarted(parents: Any, role: str) -> None:
    parent = parents("serve", "--port", "0")
    port = parent.ready()
    assert ask(port, "POST", "/v1/topics/t/events", [{"x": 1}])[0] == 202
    until(lambda: count(port) == 1)
    first = child(parent.pid, role)
    assert first is not None
    os.kill(first, signal.SIGKILL)
    until(lambda: child(parent.pid, role) not in (None, first))
    until(lambda: is_answered(port))
    until(lambda: ask(port, "POST", "/v1/topics/t/events", [{"x": 1}])[0] == 202)
    until(lambda: count(port) == 2)
    assert parent.end() == 0


def test_a_stop_does_not_wait_for_an_embedded_server_that_loads_its_data(parents: Any, tmp_path: Path) -> None:
    parent = parents("serve", "--port", "0")
    parent.ready()
    with closing(redis.Redis(unix_socket_path=str(tmp_path / "pushsvc-data/valkey.sock"))) as client:
        client.eval("for n = 1, 300000 do redis.call('SET', 'filling' .. n, n) end", 0)  # to load takes a while
    first = child(parent.pid, "valkey")
    assert first is not None
    os.kill(first, signal.SIGKILL)
    second = until(lambda: (found := child(parent.pid, "valkey")) != first and found)
    os.kill(second, signal.SIGSTOP)
    assert parent.end() == 0
    assert "does not answer" not in parent.output, "it waited for the server"


def test_a_port_or_data_folder_in_use_is_a_one_line_error(parents: Any) -> None:
    first = parents("serve", "--port", "0")
    port = first.ready()
    second = parents("serve", "--port", str(port), "--data-dir", "other")
    assert second.process.wait(DEADLINE) == 1
    assert f"Error: port {port} on 127.0.0.1 is in use by another program" in second.output
    third = parents("serve", "--port", "0")
    assert third.process.wait(DEADLINE) == 1
    assert f"pushsvc-data is in use by pushsvc process {first.pid}," in third.output
    assert "Traceback" not in third.output
    assert is_answered(port)


def test_an_unreachable_redis_is_named_without_its_password(parents: Any) -> None:
    port = listen("127.0.0.1", 0)
    number = port.getsockname()[1]
    port.close()
    parent = parents("serve", "--port", "0", "--redis", f"redis://:secret@127.0.0.1:{number}/0")
    assert parent.process.wait(DEADLINE) == 1
    assert f"Error: Redis at redis://…@127.0.0.1:{number}/0 does not answer" in parent.output
    assert "secret" not in parent.output
    warning, _ = parent.output.splitlines()
    assert "the command line shows the password of Redis" in warning


def test_wait_waits_for_redis(parents: Any, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        number = held.getsockname()[1]
    parent = parents("serve", "--port", "0", "--wait", PUSHSVC_REDIS=f"redis://127.0.0.1:{number}/0")
    until(lambda: f"waiting for Redis at redis://127.0.0.1:{number}/0" in parent.output)
    server = EmbeddedServer(tmp_path / "redis", port=number)
    server.start()
    try:
        parent.ready()
        assert parent.end() == 0
    finally:
        server.stop()


def test_a_signal_ends_the_wait_for_redis(parents: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        number = held.getsockname()[1]
    parent = parents("serve", "--port", "0", "--wait", "--redis", f"redis://127.0.0.1:{number}/0")
    until(lambda: "waiting for Redis" in parent.output)
    assert parent.end(signal.SIGINT) == 0


def test_redis_is_refused_with_eviction_and_warned_of_without_persistence(
    parents: Any, tmp_path: Path, free: int
) -> None:
    options = {"maxmemory-policy": "allkeys-lru", "appendonly": "no"}
    server = EmbeddedServer(tmp_path / "redis", port=free, options=options)
    server.start()
    try:
        parent = parents("aggregator", "--redis", server.url)
        assert parent.process.wait(DEADLINE) == 1
        assert "maxmemory-policy allkeys-lru" in parent.output
        server.stop()
        server = EmbeddedServer(tmp_path / "redis", port=free, options={"appendonly": "no"})
        server.start()
        parent = parents("aggregator", "--redis", server.url)
        until(lambda: "the aggregator works" in parent.output)
        assert "WARNING: Redis at" in parent.output
        assert "writes at most occasional snapshots" in parent.output
        assert parent.end() == 0
    finally:
        server.stop()


@pytest.fixture
def free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])


def test_metrics_sum_over_workers(parents: Any) -> None:
    parent = parents("serve", "--port", "0", "--workers", "2")
    port = parent.ready()
    for _ in range(20):
        assert ask(port, "POST", "/v1/topics/t/events", {"x": 1})[0] == 202

    def counted() -> bool:
        connection = HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        return "pushsvc_events_counted_total 20.0" in text

    until(lambda: ask(port, "GET", "/v1/topics/t/stats")[0] == 200)  # the events are counted when somebody asks
    until(counted)


def test_a_restarted_process_continues_the_metrics_files_of_its_slot(parents: Any, tmp_path: Path) -> None:
    parent = parents("serve", "--port", "0")
    port = parent.ready()

    def files() -> set[str]:
        return {path.name for path in tmp_path.glob("pushsvc-metrics-*/*")}

    def metrics() -> str:
        connection = HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        return text

    def has(*lines: str) -> bool:
        return set(lines) <= set(metrics().splitlines())

    for number in (1, 2):
        until(lambda: ask(port, "POST", "/v1/topics/t/events", {"x": 1})[0] == 202)
        until(lambda: has(f"pushsvc_events_accepted_total {number}.0", "pushsvc_partitions_owned 64.0"))  # noqa: B023
        if number == 1:
            before = files()
        for role in ("_web", "_aggregator"):
            first = child(parent.pid, role)
            assert first is not None
            os.kill(first, signal.SIGKILL)
            until(lambda: child(parent.pid, role) not in (None, first))  # noqa: B023
            until(lambda: is_answered(port))
    until(lambda: has("pushsvc_partitions_owned 64.0", "pushsvc_events_accepted_total 2.0"))
    assert files() == before


def test_aggregators_alone_serve_metrics_on_the_metrics_port(parents: Any, redis_tcp: EmbeddedServer) -> None:
    parent = parents("aggregator", "--redis", redis_tcp.url, "--aggregators", "2", "--metrics-port", "0")
    until(lambda: "the aggregator works" in parent.output or parent.process.poll() is not None)
    [found] = re.findall(r"metrics: http://127\.0\.0\.1:(\d+)/metrics", parent.output)
    port = int(found)

    def get(path: str, method: str = "GET", **headers: str) -> tuple[int, str, str]:
        connection = HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        body = answer.read().decode()
        connection.close()
        return answer.status, answer.headers["Content-Type"], body

    status, kind, text = until(lambda: (a := get("/metrics")) and "pushsvc_partitions_owned 64.0" in a[2] and a)
    assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert "pushsvc_aggregator_lag_ms 0.0" in text
    problem = "application/problem+json"
    assert get("/v1/topics")[:2] == get("/static/page.css")[:2] == (404, problem)
    assert get("/metrics", "POST")[:2] == (405, problem)
    assert get("/metrics", Host="rebound.example")[:2] == (403, problem)
    second = parents("aggregator", "--redis", redis_tcp.url, "--metrics-port", found)
    assert second.process.wait(DEADLINE) == 1
    assert f"port {port} on 127.0.0.1 is in use by another program: stop it or choose another --metrics-port" in (
        second.output
    )
    until(lambda: get("/metrics")[0] == 200)
    assert parent.end() == 0


@pytest.fixture
def redis_tcp(tmp_path: Path, free: int) -> Iterator[EmbeddedServer]:
    server = EmbeddedServer(tmp_path / "redis", port=free)
    server.start()
    yield server
    server.stop()


def test_the_pause_doubles_after_early_ends_only() -> None:
    backoff = RestartBackoff()
    assert [backoff.after(0.1) for _ in range(9)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    assert backoff.after(60) == 0.1


def test_the_start_of_a_child_is_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that fails after a start of a minute is started again after longer and longer pauses."""
    monkeypatch.setattr(
        "pushsvc.supervisor.children.subprocess.Popen", lambda *_, **__: SimpleNamespace(poll=lambda: 3)
    )
    clock = SimpleNamespace(monotonic=lambda: clock.now, now=0.0)
    monkeypatch.setattr("pushsvc.supervisor.children.time", clock)
    child = ChildProcess("_web", 1, beats=1)
    pauses = []
    for worked in (0.0, 2.0, 0.0, 11.0, 0.0):
        child.start({}, (), -1)
        clock.now += 60
        assert child.reap(worked) == 3
        assert child.due is not None
        pauses.append(round(child.due - clock.now, 3))
    assert pauses == [0.1, 0.2, 0.4, 0.1, 0.2]


def test_listening_on_an_address_of_another_machine_raises() -> None:
    with pytest.raises(StartupError, match=r"192\.0\.2\.1 port 8000"):
        listen("192.0.2.1", 8000)
