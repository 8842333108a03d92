"""The whole system over a cluster of three primaries with a replica each."""

from __future__ import annotations

from pathlib import Path

import pytest

from pushsvc.broker.broker import Broker
from pushsvc.broker.keys import TAGS, Keys, slot_of
from pushsvc.errors import StartupError, Unavailable
from pushsvc.event import Event
from pushsvc.settings import Ack, TopicSettings
from pushsvc.supervisor.preflight import check_redis
from pushsvc.topic import PARTITIONS, partition_of
from support.fleet import Fleet, client
from support.ports import free_port
from support.producers import stored
from support.stack import Stack, Table, client_of
from support.waiting import until


def share_of(topic: str) -> int:
    """Return the number of the primary that has a topic in a new cluster."""
    return slot_of(TAGS[partition_of(topic)]) * 3 // 16_384


def spread(begin: str) -> list[str]:
    """Return three topics, one for each primary."""
    names = [f"{begin}.{number}" for number in range(100)]
    return [next(name for name in names if share_of(name) == share) for share in range(3)]


def test_publish_and_statistics_work_on_every_primary(site: Stack) -> None:
    topics = spread("all")
    for topic in topics:
        assert site.post(topic, [{"key": "a", "x": 1}, {"key": "b", "x": 3}]).json()["last_offset"] == 2
    for topic in topics:
        state = until(lambda: (s := site.stats(topic))["offset"] == 2 and s)  # noqa: B023
        assert {tuple(row[:2]): row[2] for row in state["data"]}[None, "x"] == 2
        assert site.get(f"/v1/topics/{topic}").json()["last_offset"] == 2
    listed = site.get("/v1/topics").json()["topics"]
    assert set(topics) <= {one["topic"] for one in listed}


def test_stream_over_all_primaries_resumes(site: Stack) -> None:
    topics = spread("many")
    path = "/v1/stream?" + "&".join(f"events={topic}" for topic in topics)
    for topic in topics:
        site.post(topic, {"n": 1})
    with site.stream(path + "&last_event_id=earliest") as stream:
        assert {stream.frame()[1]["$topic"] for _ in topics} == set(topics)
        for topic in topics:
            site.post(topic, {"n": 2})
        assert {(data["$topic"], data["n"]) for _, data in (stream.frame() for _ in topics)} == {(t, 2) for t in topics}
        cursor = stream.decoder.last_id
    for topic in topics:
        site.post(topic, {"n": 3})
    with site.stream(path, Last_Event_ID=cursor) as stream:
        found = [stream.frame() for _ in topics]
    assert [(event, data["n"]) for event, data in found] == [("message", 3)] * 3
    assert {data["$topic"] for _, data in found} == set(topics)


def test_pattern_receives_topics_created_on_any_primary(site: Stack) -> None:
    topics = spread("born")
    site.post(topics[0], {"n": 0})
    with site.stream("/v1/stream?events=born.*&stats=born.*&window=1m") as stream:
        for topic in topics:
            site.post(topic, {"n": 1})
        events, offsets = set(), {}
        while events != set(topics) or set(offsets) != set(topics):
            event, data = stream.frame()
            if event == "message" and data["n"] == 1:
                events.add(data["$topic"])
            elif event in ("snapshot", "update") and data["offset"] == (2 if data["topic"] == topics[0] else 1):
                offsets[data["topic"]] = data["offset"]


def test_statistics_update_live_on_every_primary(site: Stack) -> None:
    for topic in spread("live"):
        with site.stream(f"/v1/topics/{topic}/stats") as stream:
            table = Table()
            table.apply(*stream.frame())
            for number in range(1, 4):
                site.post(topic, {"key": "k", "x": number})
                while table.offset < number:
                    table.apply(*stream.frame())
            assert table.rows["k", "x"][2] == 3


def test_deleted_topic_is_reset_on_every_primary(site: Stack) -> None:
    for topic in spread("gone"):
        site.post(topic, {"n": 1})
        with site.stream(f"/v1/topics/{topic}/events?last_event_id=earliest") as stream:
            stream.frame()
            assert site.request("DELETE", f"/v1/topics/{topic}").status == 204
            assert stream.frame() == ("reset", {"topic": topic, "reason": "deleted"})
            site.post(topic, {"n": 2})
            assert stream.frame()[1]["n"] == 2


def test_events_arrive_by_publish_at_any_node(site: Stack, cluster: Fleet) -> None:
    for number, topic in enumerate(spread("raw")):
        for server in cluster.servers[number::3]:  # a replica, too
            client(server.port).publish(f"site:ingest:{topic}", '{"x": 1}')
        assert until(lambda: site.get(f"/v1/topics/{topic}").json().get("last_offset") == 2)  # noqa: B023


def test_aggregators_share_the_partitions(site: Stack, cluster: Fleet) -> None:
    site.start("second", "aggregator")
    admin = client_of(cluster.cluster_url)
    leases = [Keys("site:").lease(partition) for partition in range(PARTITIONS)]

    def owners() -> list[bytes | None]:
        return [admin.get(lease) for lease in leases]

    until(lambda: (found := owners()) and sorted(found.count(one) for one in set(found)) == [32, 32])
    site.stop("second")
    until(lambda: len(set(owners())) == 1)
    admin.close()


def test_cluster_node_is_refused_as_a_single_server(cluster: Fleet) -> None:
    with pytest.raises(
        StartupError, match=r"127.0.0.1:\d+ is a node of a cluster: use redis\+cluster://host:port,host:port"
    ):
        check_redis(f"redis://127.0.0.1:{cluster.servers[0].port}", "p:", wait=False, warn=print)


def test_cluster_without_sharded_channels_is_refused(tmp_path: Path) -> None:
    (tmp_path / "old.conf").write_text('rename-command SPUBLISH ""\n')
    fleet = Fleet(tmp_path)
    try:
        old = fleet.start(cluster_enabled="yes", cluster_port=str(free_port()), include=str(tmp_path / "old.conf"))
        url = f"redis+cluster://127.0.0.1:{old.port}"
        with pytest.raises(StartupError, match="its cluster has no slots yet"):
            check_redis(url, "p:", wait=False, warn=print)
        client(old.port).execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
        until(lambda: client(old.port).execute_command("CLUSTER INFO")["cluster_state"] == "ok")
        with pytest.raises(StartupError, match="the cluster does not know SPUBLISH: it has to be of Redis 7 or Valkey"):
            check_redis(url, "p:", wait=False, warn=print)
    finally:
        fleet.close()


def test_preflight_checks_every_primary(cluster: Fleet) -> None:
    last = client(cluster.servers[2].port)
    last.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(StartupError, match="evicts keys"):
            check_redis(cluster.cluster_url, "p:", wait=False, warn=print)
    finally:
        last.config_set("maxmemory-policy", "noeviction")
    warnings: list[str] = []
    for ack, expected in (("replicas:1", 0), ("replicas:2", 1)):
        check_redis(cluster.cluster_url, "p:", wait=False, warn=warnings.append, ack=Ack.parse(ack))
        assert len(warnings) == expected


def test_disk_of_the_topics_primary_confirms_a_publish(cluster: Fleet, prefix: str) -> None:
    primaries = [client(server.port) for server in cluster.servers[:3]]
    for one in primaries:
        one.config_set("appendfsync", "everysec")
    broker = Broker(cluster.cluster_url, prefix, ack=Ack.parse("fsync"))
    for topic in spread("disk"):
        assert broker.publish(topic, [Event(data={"n": 1})], TopicSettings()).last_offset == 1
    for one in primaries:
        assert one.info("commandstats")["cmdstat_waitaof"]["calls"] == 1
        one.config_set("appendfsync", "no")
    broker.close()


def test_publishing_survives_the_move_of_a_slot(site: Stack, cluster: Fleet, prefix: str) -> None:
    """Publishing pauses during the migration of the slot and continues at its new primary; every event is stored once.
    Streams stay open and get a reset."""
    topic = spread("moving")[0]
    broker = Broker(cluster.cluster_url, prefix, ack=Ack.parse("replicas:1"))
    slot = slot_of(TAGS[partition_of(topic)])
    source, target = (client(cluster.servers[n].port) for n in (0, 1))
    names = {one: one.execute_command("CLUSTER", "MYID") for one in (source, target)}
    acknowledged: list[str] = []

    def publish(count: int) -> None:
        for _ in range(count):
            name = f"e{len(acknowledged)}"
            try:
                broker.publish(topic, [Event(id=name, data={"n": 1})], TopicSettings())
            except Unavailable:
                return
            acknowledged.append(name)

    publish(3)
    site.post(topic, {"n": 1})
    with site.stream(f"/v1/topics/{topic}/events") as events, site.stream(f"/v1/topics/{topic}/stats") as stats:
        stats.until(lambda _, data: data["offset"] == 1)
        target.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", names[source])
        source.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", names[target])
        first, *others = source.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100)
        move = ("MIGRATE", "127.0.0.1", cluster.servers[1].port, "", 0, 5000, "REPLACE", "KEYS")
        source.execute_command(*move, first)
        publish(1)  # some keys are here, some there: TRYAGAIN
        assert len(acknowledged) == 3
        while others:  # the aggregator renews its lease, which creates this key again
            source.execute_command(*move, *others)
            others = source.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100)
        publish(1)  # all are there: ASK
        assert len(acknowledged) == 3
        for one in (target, source, client(cluster.servers[2].port)):
            one.execute_command("CLUSTER", "SETSLOT", slot, "NODE", names[target])
        publish(3)  # MOVED
        assert len(acknowledged) == 6
        assert list(broker.topics()) == [topic]
        assert stored(broker, topic) == acknowledged
        assert until(lambda: site.post(topic, {"n": 2}).status == 202)
        assert events.until(lambda event, _: event == "reset")["reason"] == "broker-restarted"
        events.until(lambda event, data: event == "message" and data["n"] == 2)
        stats.until(lambda event, _: event == "reset")
        stats.until(lambda _, data: data.get("offset") == 2)
    broker.close()
