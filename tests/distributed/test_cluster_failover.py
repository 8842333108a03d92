"""A primary of a cluster dies or hangs, and its replica takes over."""

from __future__ import annotations

import os
import select
import signal
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import TimeoutError as RedisTimeoutError

from pushsvc.broker.broker import Broker
from pushsvc.broker.embedded import EmbeddedServer
from pushsvc.broker.keys import TAGS, slot_of
from pushsvc.topic import partition_of
from support.fleet import Fleet, client, kill
from support.producers import Producers, stored
from support.stack import Stack, Stream
from support.waiting import DEADLINE, until


def slot(topic: str) -> int:
    return slot_of(TAGS[partition_of(topic)])


@pytest.fixture
def topics(cluster: Fleet, topic: str) -> list[str]:
    """One topic for each primary."""
    found = {cluster.primary_of(slot(name)).port: name for name in (f"{topic}.{number}" for number in range(40))}
    assert len(found) == 3
    return list(found.values())


def counted(site: Stack, topic: str) -> int:
    state = site.stats(topic)
    return int({tuple(row[:2]): row[2] for row in state["data"]}.get((None, "n"), 0))


def offsets_to(stream: Stream, last: int) -> list[int]:
    """Return the offsets of a stream's next events up to ``last``; fail on a reset."""
    found: list[int] = []
    while not found or found[-1] < last:
        event, data = stream.frame()
        assert event == "message", (event, data)
        found.append(data["$offset"])
    return found


def test_confirmed_events_survive_the_death_of_a_primary(
    cluster: Fleet, site: Stack, topics: list[str], tmp_path: Path
) -> None:
    hit, *others = topics
    with Stack(cluster.cluster_url, site.prefix, tmp_path) as confirmed:
        confirmed.start_web("--ack", "replicas:1")
        memory = Producers(site, topics, prefix="m")
        replicated = Producers(confirmed, topics, prefix="c")
        until(lambda: all(one.count(topic) > 20 for one in (memory, replicated) for topic in topics))
        with (
            site.stream(f"/v1/topics/{hit}/events") as of_hit,
            site.stream(f"/v1/topics/{hit}/stats") as stats_of_hit,
            site.stream(f"/v1/topics/{others[0]}/events") as of_other,
            site.stream(f"/v1/topics/{others[1]}/stats") as stats_of_other,
        ):
            for stream in (of_hit, stats_of_hit, of_other, stats_of_other):
                stream.frame()
            primary = cluster.primary_of(slot(hit))
            kill(primary)
            before = {topic: memory.count(topic) for topic in topics}
            until(lambda: memory.refusals[hit])
            until(lambda: all(memory.count(topic) > before[topic] + 20 for topic in topics))
            # The promoted replica has no replica yet: it can confirm no publish.
            until(lambda: (503, "outcome-unknown") in replicated.refusals[hit])
            stood_at = replicated.count(hit)
            primary.start()
            until(lambda: replicated.count(hit) > stood_at + 20)
            memory.stop()
            replicated.stop()
            last = {topic: site.get(f"/v1/topics/{topic}").json()["last_offset"] for topic in topics}
            assert of_hit.until(lambda event, _: event == "reset")["reason"] == "broker-restarted"
            of_hit.until(lambda event, data: event == "message" and data["$offset"] == last[hit])
            stats_of_hit.until(lambda event, _: event == "reset")
            stats_of_hit.until(lambda _, data: data.get("offset") == last[hit])
            found = offsets_to(of_other, last[others[0]])
            assert found == list(range(found[0], found[-1] + 1))
            until(lambda: (f := stats_of_other.frame())[0] != "reset" and f[1].get("offset") == last[others[1]])
            assert b"event: reset" not in stats_of_other.raw
    refused = {status for one in (memory, replicated) for topic in topics for status, _ in one.refusals[topic]}
    assert refused == {503}
    broker = Broker(cluster.cluster_url, site.prefix)
    for topic in topics:
        there = stored(broker, topic)
        assert len(there) == len(set(there)), "an event is there twice"
        assert set(replicated.acknowledged[topic]) <= set(there), "a confirmed event is lost"
        lost = [name for name in memory.acknowledged[topic] if name not in set(there)]
        if topic == hit:
            # Only the events that were acknowledged from memory just before the death may be lost.
            assert lost == memory.acknowledged[topic][before[hit] - len(lost) : before[hit]]
        else:
            assert lost == []
        assert until(lambda: counted(site, topic) == len(there))  # noqa: B023
    broker.close()


def test_posts_to_others_do_not_wait_for_a_hung_primary(cluster: Fleet, site: Stack, topics: list[str]) -> None:
    """The requests arrive in one or two turns of the event loop: the web process is stopped while they are sent."""
    with ExitStack() as opened:
        producers = [opened.enter_context(closing(Repeating(site.port, topic))) for topic in topics * 6]
        for topic in topics:
            until(lambda: site.post(topic, [{"n": 1}] * 100).status == 202)  # noqa: B023
        for producer in producers:  # events whose shape is known, and heads that repeat, are batched
            assert [producer.post() for _ in range(3)] == [202] * 3
        hung = producers[::3]
        others = [producer for producer in producers if producer not in hung]

        def others_are_answered_first() -> bool:
            primary, replica = cluster.of_slot(slot(topics[0]))
            until(lambda: client(replica.port).info("replication").get("master_link_status") == "up")
            os.kill(primary.pid or 0, signal.SIGSTOP)
            try:
                until(lambda: is_silent(primary))
                site.signal_all("web", signal.SIGSTOP)
                for producer in producers:
                    producer.send()
                site.signal_all("web", signal.SIGCONT)
                statuses = {other.status() for other in others}
                answered = any(one.is_answered() for one in hung)
            finally:
                os.kill(primary.pid or 0, signal.SIGCONT)
            for one in hung:
                one.status()  # it took the post after all, or its replica did, or the outcome is unknown
            return statuses == {202} and not answered

        until(others_are_answered_first)


def is_silent(server: EmbeddedServer) -> bool:
    try:
        return not client(server.port, timeout=0.05).ping()
    except RedisTimeoutError:
        return True


class Repeating:
    """A producer that posts the same event again and again over one connection."""

    def __init__(self, port: int, topic: str) -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
        self._path = f"/v1/topics/{topic}/events"

    def send(self) -> None:
        self._connection.request("POST", self._path, b'{"n":1}', {"Content-Type": "application/json"})

    def is_answered(self) -> bool:
        """Return whether there is an answer, or one that was sent together with an earlier one."""
        sock = self._connection.sock
        return sock is None or bool(select.select([sock], [], [], 0.05)[0])

    def status(self) -> int:
        response = self._connection.getresponse()
        response.read()
        return response.status

    def post(self) -> int:
        self.send()
        return self.status()

    def close(self) -> None:
        self._connection.close()


def test_replica_of_a_hung_primary_takes_over(cluster: Fleet, site: Stack, topics: list[str]) -> None:
    """It accepts connections and never answers. The other primaries go on, and so does its share on the replica."""
    hit, *others = topics
    for topic in topics:
        assert site.post(topic, {"id": "a", "n": 1}).status == 202
        until(lambda: counted(site, topic) == 1)  # noqa: B023
    with site.stream(f"/v1/topics/{hit}/events") as of_hit, site.stream(f"/v1/topics/{others[0]}/stats") as of_other:
        of_other.frame()
        primary, replica = cluster.of_slot(slot(hit))
        until(lambda: client(replica.port).info("replication").get("master_link_status") == "up")
        os.kill(primary.pid or 0, signal.SIGSTOP)
        try:
            until(lambda: accepted(site, others[0], {"id": "b", "n": 1}))
            of_other.until(lambda _, data: data.get("offset") == 2)
            until(lambda: accepted(site, hit, {"id": "b", "n": 1}))
            assert of_hit.until(lambda event, _: event == "reset")["reason"] == "broker-restarted"
            of_hit.until(lambda event, data: event == "message" and data["$offset"] == 2)
            assert until(lambda: counted(site, hit) == 2)
        finally:
            os.kill(primary.pid or 0, signal.SIGCONT)
    until(lambda: client(primary.port).role()[0] == "slave")
    assert site.post(hit, {"id": "c", "n": 1}).json()["last_offset"] == 3


def accepted(site: Stack, topic: str, event: dict[str, Any]) -> bool:
    return site.post(topic, event).status == 202
