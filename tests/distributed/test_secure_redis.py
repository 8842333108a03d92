"""A Redis that takes only TLS, and a user with the permissions of docs/redis.md: one server, Sentinels, a cluster."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from importlib.resources import files
from pathlib import Path

import pytest

from pushsvc.broker import Broker
from pushsvc.broker.cluster.address import with_files
from pushsvc.settings import TopicSettings
from pushsvc.topic import partition_of
from support.secure_redis import SENTINEL, SecureRedis, documented_rules
from support.stack import Stack
from support.waiting import until

PASSWORD = "pass/word@?#%&"  # every character that a URL would need escaped


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureRedis]:
    servers = SecureRedis(tmp_path_factory.mktemp("secure"), PASSWORD)
    yield servers
    servers.close()


@pytest.fixture(params=["one server", "sentinels", "cluster"])
def place(request: pytest.FixtureRequest, servers: SecureRedis) -> tuple[str, list[int]]:
    """The URL, without user and files, and the ports of the primaries."""
    if request.param == "cluster":
        ports = servers.form_cluster()
        return f"rediss+cluster://127.0.0.1:{ports[0]}", ports
    port = servers.start()
    if request.param == "one server":
        return f"rediss://127.0.0.1:{port}/0", [port]
    (servers.folder / "sentinel-password").write_text(SENTINEL)
    watcher = servers.start(sentinel_of=port)
    files = f"sentinel_username=watcher&sentinel_password_file={servers.folder}/sentinel-password"
    return f"rediss+sentinel://127.0.0.1:{watcher}/mymaster?{files}", [port]


def configured(stack: Stack, servers: SecureRedis, folder: Path) -> Path:
    """Name the user and the files in the settings of a stack; return the file of the password."""
    password = folder / "password"
    password.write_text(f"{PASSWORD}\n")
    certificate, key = servers.client_files
    stack.configure(
        f'redis_username = "pushsvc"\nredis_password_file = "password"\nredis_cert_file = "{certificate}"\n'
        f'redis_key_file = "{key}"\nredis_ca_file = "{servers.certificates.authority}"\n'
        '[topics."short.*"]\nretention = 5\nwindows = ["10s"]\n'
    )
    return password


def test_user_with_the_documented_permissions_runs_everything(
    servers: SecureRedis, place: tuple[str, list[int]], tmp_path: Path
) -> None:
    url, primaries = place
    with Stack(url, "pushsvc:", tmp_path) as stack:
        configured(stack, servers, tmp_path)
        stack.start_aggregator()
        stack.start_web()
        topics = [f"short.{name}" for name in "abcdef"]

        def ingested(topic: str) -> bool:
            # Redis forgets what nobody is subscribed to yet. The id makes one event of all attempts.
            servers.admin(primaries[0]).publish(f"pushsvc:ingest:{topic}", '{"id": "ingested", "x": 1}')
            offset: int = stack.get(f"/v1/topics/{topic}").json()["last_offset"]
            return offset >= 16

        with stack.stream("/v1/stream?" + "&".join(f"events={t}&stats={t}" for t in topics)) as stream:
            seen: set[tuple[str, str]] = set()
            for topic in topics:
                for number in range(20):
                    event = {"key": "k", "id": str(number % 15), "x": number}
                    answer = stack.request(
                        "POST", f"/v1/topics/{topic}/events", str(event).replace("'", '"').encode(),
                        Content_Type="application/json", Idempotency_Key=f"{topic}{number}",
                    )  # fmt: skip
                    assert answer.status == 202, answer
            while not {(topic, kind) for topic in topics for kind in ("events", "stats")} <= seen:
                event, data = stream.frame()
                if "$topic" in data:
                    seen.add((data["$topic"], "events"))
                elif "topic" in data:
                    seen.add((data["topic"], "stats"))
        for topic in topics:
            until(partial(ingested, topic))
            until(lambda: stack.stats(topic, "?at_least=15")["offset"] >= 15)  # noqa: B023
            assert stack.get(f"/v1/topics/{topic}/events", Accept="application/json").status == 200
        assert stack.post("short.a", b"no JSON").status == 400
        newest = stack.get("/v1/topics/short.b/events?order=desc", Accept="application/json")
        assert newest.status == 200
        assert stack.get("/v1/topics").status == stack.get("/metrics").status == 200
        assert stack.request("DELETE", "/v1/topics/short.a").status == 204
        stack.stop("aggregator")
        assert stack.stop("web") == 0
        sweep(servers, url, tmp_path)
        for port in primaries:
            assert servers.denied(port) == []
        for name in ("aggregator", "web"):
            assert "NOPERM" not in stack.output(name)
            assert "Traceback" not in stack.output(name)


def sweep(servers: SecureRedis, url: str, folder: Path) -> None:
    """Do what the aggregator of a partition does every 30 seconds."""
    certificate, key = servers.client_files
    secure = with_files(
        url, username="pushsvc", password_file=folder / "password", ca_file=servers.certificates.authority,
        cert_file=certificate, key_file=key,
    )  # fmt: skip
    broker = Broker(secure)
    partition = partition_of("short.b")
    fence = broker.lease([partition], "test", 10_000)[partition]
    assert fence is not None
    settings = TopicSettings(retention=1, windows=(), expire_after=1)
    assert broker.sweep({"short.b": settings}, fence, 100)["short.b"].entries > 0
    until(lambda: broker.expire("short.b", fence, 1))
    assert broker.forget_ended(partition, fence, b"0").remembered
    broker.release([partition], "test")
    broker.close()


def test_new_password_is_taken_at_the_next_connect(servers: SecureRedis, tmp_path: Path) -> None:
    port = servers.start()
    with Stack(f"rediss://127.0.0.1:{port}/0", "pushsvc:", tmp_path) as stack:
        password = configured(stack, servers, tmp_path)
        stack.start_aggregator()
        stack.start_web()
        with stack.stream("/v1/topics/t/events") as stream:
            assert stack.post("t", {"x": 1}).status == 202
            stream.until(lambda _, data: data.get("x") == 1)
            admin = servers.admin(port)
            admin.execute_command("ACL", "SETUSER", "pushsvc", "resetpass", ">rotated")
            admin.execute_command("CLIENT", "KILL", "USER", "pushsvc")
            until(lambda: not stack.ready())
            assert stack.post("t", {"x": 2}).status == 503
            password.write_text("rotated")
            until(stack.ready)
            until(lambda: stack.post("t", {"x": 3}).status == 202)
            stream.until(lambda _, data: data.get("x") == 3)
        for name in ("aggregator", "web"):
            assert "rotated" not in stack.output(name)
            assert PASSWORD not in stack.output(name)


NO_COMMANDS = {"OOM", "READONLY", "SENTINEL", "WAITAOF"}
"""Words of replies, and what the document lists elsewhere."""


def test_documented_permissions_are_the_commands_of_the_sources() -> None:
    """Commands in Lua and in Python against the list: none is missing, none is too many."""
    source = files("pushsvc").joinpath("broker")
    lua = "".join(script.read_text() for script in source.joinpath("scripts").iterdir() if script.name.endswith(".lua"))
    used = {f"{a}|{b}" if b else a for a, b in re.findall(r"call\('([A-Z]+)'(?:, *'([A-Z]{2,})')?", lua)}
    granted = {rule[1:].upper() for rule in documented_rules() if rule.startswith("+")}
    assert {command for command in used if not command.startswith("PUBSUB")} <= granted
    python = "".join(Path(str(path)).read_text() for path in Path(str(source)).rglob("*.py"))
    words = set(re.findall(r'"([A-Z]{3,})"', python)) | {command.split("|")[0] for command in used}
    sent = set(re.findall(r'[(\[]"([A-Z]{3,})"', python)) - NO_COMMANDS
    assert sent <= {rule.split("|")[0] for rule in granted}
    extra = {rule for rule in granted if rule.split("|")[0] not in words}
    assert extra == {"CLIENT|SETNAME"}  # which redis-py sends
