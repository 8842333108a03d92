"""Many topics, many patterns, and many viewers of the list cost work for what matches and for what changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from threading import Event

import pytest

from hostile.attacks import patterns, topic_lists
from hostile.calls import get
from pushsvc.broker.broker import Broker
from pushsvc.event import Event as StoredEvent
from pushsvc.hub.hub import Hub
from pushsvc.hub.limits import FeedLimits
from pushsvc.hub.query import Query
from pushsvc.settings import TopicSettings
from pushsvc.sse import Decoder
from pushsvc.topic import PARTITIONS, Shapes, partition_of
from pushsvc.web import topics as web_topics
from pushsvc.web.app import context_of, create_app
from pushsvc.web.context import Context
from pushsvc.web.long_requests import LongLimits, LongRequests
from support.stack import Stack
from support.turns import counted_turns
from support.waiting import turn_until
from support.web_app import client_of

TOPICS = 400


@pytest.fixture
def hub(broker: Broker) -> Iterator[Hub]:
    """A hub whose slices are as short as can be."""
    broker.check_layout()
    broker.open_partitions()
    hub = Hub(broker, feed_limits=FeedLimits(slice=0.0), refresh=0.01)
    yield hub
    hub.close()


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The patterns that were looked for."""
    found: list[str] = []
    candidates = Shapes.candidates

    def counted(self: Shapes, topic: str) -> Iterator[str]:
        for candidate in candidates(self, topic):
            found.append(candidate)
            yield candidate

    monkeypatch.setattr(Shapes, "candidates", counted)
    return found


@pytest.fixture
def reads(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The partitions whose topics were read."""
    found: list[int] = []
    topics_of = broker.topics_of
    monkeypatch.setattr(broker, "topics_of", lambda partition: found.append(partition) or topics_of(partition))
    return found


@pytest.fixture
def turns() -> Iterator[list[int]]:
    """Grows with each turn of the event loop."""
    with counted_turns() as taken:
        yield taken


def publish(broker: Broker, *names: str) -> None:
    for name in names:
        broker.publish(name, [StoredEvent(data={"n": 1})], TopicSettings())


def followed(hub: Hub, query: Query) -> set[str]:
    return {of.topic for of in hub.group(query).logs}


def list_topics(hub: Hub, queries: list[Query]) -> None:
    """Let the groups of queries follow the topics that exist."""
    confirmed = Event()
    confirmed.set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub.feed.live, "subscribe", lambda channel: confirmed)
        for query in queries:
            hub.group(query)
        hub.feed.directory.wait_listed()


def test_patterns_are_not_compared_with_each_topic(
    broker: Broker, hub: Hub, lookups: list[str], turns: list[int]
) -> None:
    """3,000 topics and 10 streams of 600 patterns were 18 million comparisons in one turn of the loop: 57 seconds."""
    publish(broker, *(f"shop.{number}" for number in range(TOPICS)))
    queries = [Query(events=tuple(f"*.{stream}n{number}" for number in range(600))) for stream in range(10)]
    queries.append(Query(events=("shop.1", "*.2")))
    list_topics(hub, queries)
    assert followed(hub, queries[-1]) == {"shop.1", "shop.2"}
    assert TOPICS <= len(lookups) <= len(queries) * TOPICS + 100
    assert turns[0] >= TOPICS, "others had no turn of the loop"


def test_a_new_topic_is_not_compared_with_each_pattern(hub: Hub, lookups: list[str]) -> None:
    queries = [Query(events=tuple(f"*.{stream}n{number}" for number in range(100))) for stream in range(5)]
    queries.append(Query(events=("shop.*",)))
    list_topics(hub, queries)
    lookups.clear()
    hub.feed.directory.on_new_topic("shop.new")
    hub.feed.directory.on_new_topic("bar.0n7")
    assert followed(hub, queries[-1]) == {"shop.new"}
    assert followed(hub, queries[0]) == {"bar.0n7"}
    assert len(lookups) <= 20
    assert all(not followed(hub, query) for query in queries[1:-1])


def test_a_pattern_visits_the_topics_that_begin_as_it_does(
    broker: Broker, hub: Hub, lookups: list[str], reads: list[int]
) -> None:
    """And the topics of partitions that did not change are not read again."""
    publish(broker, *(f"user.{number}" for number in range(TOPICS)), *(f"shop.{number}" for number in range(5)))
    first, second = Query(events=("shop.*",)), Query(events=("shop.>",), statistics=("user.7",))
    list_topics(hub, [first])
    assert set(reads) == set(range(PARTITIONS))
    assert len(reads) == PARTITIONS
    publish(broker, "shop.later")
    lookups.clear()
    list_topics(hub, [second])
    assert followed(hub, second) == {*(f"shop.{number}" for number in range(5)), "shop.later", "user.7"}
    # A partition with fewer topics than patterns is visited completely.
    assert len(lookups) <= 50
    assert reads[PARTITIONS:] in ([partition_of("shop.later")], [])


def test_a_deleted_topic_is_not_found(broker: Broker, hub: Hub) -> None:
    publish(broker, "shop.0", "shop.1")
    list_topics(hub, [Query(events=("shop.*",))])
    broker.delete("shop.0")
    later = Query(events=("shop.>",))
    list_topics(hub, [later])
    assert followed(hub, later) == {"shop.1"}


def test_wildcards_of_a_stream_have_a_bounded_number_of_arrangements(shared_server: Stack) -> None:
    places = [".".join("*" if number >> bit & 1 else "a" for bit in range(6)) for number in range(52)]
    query = "&".join(f"events={pattern}" for pattern in places)
    answer = get(shared_server.url, f"/v1/stream?{query}")
    assert answer.status == 400
    assert "51 arrangements of wildcards, at most 50" in answer.json()["detail"]


def test_many_patterns_are_served(shared_server: Stack) -> None:
    assert patterns.attack(shared_server.url, topics=50, streams=4, births=5) == {"HTTP/1.1 200 OK": 4}


# Lists


@pytest.fixture
def context(broker: Broker) -> Context:
    """A context whose long requests pause at every step."""
    return replace(context_of(create_app(broker)), long=LongRequests(LongLimits(slice=0.0)))


def test_a_search_pauses_and_reads_what_changed(context: Context, broker: Broker, reads: list[int]) -> None:
    publish(broker, *(f"shop.{number}" for number in range(TOPICS)))
    client = client_of(web_topics, context)
    begun = context.long.slices
    assert client.get("/v1/topics?search=SHOP.39&limit=2").json["total"] == 11
    assert context.long.slices - begun >= PARTITIONS
    assert len(reads) == PARTITIONS
    publish(broker, "shop.new")
    answer = client.get("/v1/topics?search=shop.n").json
    assert [topic["topic"] for topic in answer["topics"]] == ["shop.new"]
    assert reads[PARTITIONS:] == [partition_of("shop.new")]
    assert client.get("/v1/topics?search=shop.n").json["total"] == 1
    assert len(reads) == PARTITIONS + 1


def test_changes_cost_what_changed(
    context: Context, broker: Broker, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(broker, *(f"shop.{number}" for number in range(TOPICS)))
    before, _ = web_topics.poll_first(context, None)
    described: list[int] = []
    metadata = broker.metadata
    monkeypatch.setattr(broker, "metadata", lambda logs: described.append(len(logs)) or metadata(logs))
    reads.clear()
    publish(broker, "shop.new")
    broker.delete("shop.7")
    after, _ = web_topics.poll_first(context, before)
    described.clear()
    [message] = Decoder().feed(web_topics.describe_changes(context, before, after))
    data = json.loads(message.data)
    assert ([topic["topic"] for topic in data["added"]], data["removed"]) == (["shop.new"], ["shop.7"])
    assert data["total"] == TOPICS
    assert described == [1]
    assert set(reads) == {partition_of("shop.new"), partition_of("shop.7")}


def test_a_long_list_is_made_less_often_than_it_is_asked_for(hub: Hub) -> None:
    """20 viewers of 20,000 topics got 473 MB in 20 seconds: the whole list for each change."""
    asked = {"short": 0, "long": 0}

    def poll(name: str, size: int) -> tuple[int, bytes]:
        asked[name] += 1
        return asked[name], b"data: %s\n\n" % (b"x" * size)

    long = hub.listing("long", lambda known: poll("long", 40_000_000))
    short = hub.listing("short", lambda known: poll("short", 1))
    for _ in range(5):
        long.refresh()
        short.refresh()
    turn_until(lambda: asked["short"] > 20)
    long.refresh()
    assert asked["long"] == 1
    assert long.framed_state() is long.framed_state(), "each stream holds a copy"


def test_viewers_of_the_list_get_it_once(shared_server: Stack) -> None:
    seen = topic_lists.attack(shared_server.url, topics=1_000, viewers=3, births=2, pause=1.0)
    assert seen["200"] == 2
    assert 3 <= seen["lists"] <= 9
