"""A backup of a running system, restored elsewhere, by the steps of docs/operations.md."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import redis as client

from pushsvc.broker.embedded import EmbeddedServer
from support.producers import BatchProducer
from support.stack import Stack
from support.waiting import until

PREFIX = "pushsvc:"
EVENTS = "/v1/topics/feedback/events"
LATEST = "[topics.feedback]\nlatest = true\n"


def settled(server: client.Redis, *names: str) -> bool:
    persistence = server.info("persistence")
    return not any(persistence[name] for name in names)


def copy_append_only_files(server: EmbeddedServer, target: Path) -> None:
    redis = client.Redis.from_url(server.url)
    percentage = redis.config_get("auto-aof-rewrite-percentage")["auto-aof-rewrite-percentage"]
    redis.config_set("auto-aof-rewrite-percentage", 0)
    until(lambda: settled(redis, "aof_rewrite_in_progress", "aof_rewrite_scheduled"))
    shutil.copytree(server.data_dir / "appendonlydir", target / "appendonlydir")
    redis.config_set("auto-aof-rewrite-percentage", percentage)


def copy_snapshot(server: EmbeddedServer, target: Path) -> None:
    redis = client.Redis.from_url(server.url)
    redis.bgsave()
    until(lambda: settled(redis, "rdb_bgsave_in_progress"))
    assert redis.info("persistence")["rdb_last_bgsave_status"] == "ok"
    shutil.copy(server.data_dir / "dump.rdb", target)


def load_snapshot(folder: Path) -> None:
    """Turn a snapshot into append-only files: a server with append-only files ignores a snapshot."""
    server = EmbeddedServer(folder, options={"appendonly": "no"})
    server.start()
    redis = client.Redis.from_url(server.url)
    redis.config_set("appendonly", "yes")
    until(lambda: settled(redis, "aof_rewrite_in_progress", "aof_rewrite_scheduled"))
    redis.close()
    server.stop()


def batch(number: int) -> list[dict[str, object]]:
    return [{"id": f"id-{number}", "key": "k", "n": number}]


@pytest.mark.parametrize(
    ("copy", "load"), [(copy_append_only_files, None), (copy_snapshot, load_snapshot)], ids=["append-only", "snapshot"]
)
def test_backup_taken_during_publishing_restores_a_consistent_state(
    tmp_path: Path, copy: Callable[[EmbeddedServer, Path], None], load: Callable[[Path], None] | None
) -> None:
    for name in ("here", "there", "copy"):
        (tmp_path / name).mkdir()
    here = EmbeddedServer(tmp_path / "here" / "data")
    here.start()
    try:
        with Stack(here.url, PREFIX, tmp_path / "here") as stack:
            stack.configure(LATEST)
            stack.start_aggregator()
            stack.start_web()
            with BatchProducer(stack, ["feedback"], batch) as producer:
                until(lambda: producer.posts >= 100)
                before = producer.posts
                copy(here, tmp_path / "copy")
                copied = producer.posts
                until(lambda: producer.posts > copied)
            assert producer.refused == 0
            with stack.stream(f"{EVENTS}?last_event_id=earliest") as stream:
                cursor = [stream.next().id for _ in range(producer.posts)][-1]
            events = stack.get(EVENTS + "?limit=10000").json()["events"]
    finally:
        here.stop()

    if load is not None:
        load(tmp_path / "copy")
    there = EmbeddedServer(tmp_path / "copy")
    there.start()
    try:
        with Stack(there.url, PREFIX, tmp_path / "there") as stack:
            stack.configure(LATEST)
            stack.start_aggregator()
            stack.start_web()
            figures = stack.get("/v1/topics/feedback").json()
            last = figures["last_offset"]
            assert before <= last <= producer.posts
            found = stack.get(EVENTS + "?limit=10000").json()["events"]
            assert found == events[:last]
            assert stack.get("/v1/topics/feedback/latest").json()["events"] == found[-1:]
            frame = until(lambda: (s := stack.stats("feedback", "?window=15m"))["offset"] == last and s)
            rows = {(row[0], row[1]): dict(zip(frame["columns"], row, strict=True)) for row in frame["data"]}
            assert rows["k", "n"]["count"] == last
            assert rows["k", "n"]["sum"] == sum(event["n"] for event in found)

            with stack.stream(EVENTS, Last_Event_ID=cursor) as stream:
                assert stream.frame() == ("reset", {"topic": "feedback", "reason": "broker-restarted"})
                assert stream.frame()[1]["$offset"] == 1
            again = stack.post(
                "feedback", [{"id": "id-0", "key": "k", "n": 0}, {"id": "new", "key": "k", "n": 1}]
            ).json()
            assert (again["duplicates"], again["last_offset"]) == (1, last + 1)
    finally:
        there.stop()
