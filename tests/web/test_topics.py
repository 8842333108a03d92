"""The list of topics: which metadata it reads from Redis, and that it is complete."""

import json
from dataclasses import replace

import pytest

from pushsvc.errors import BrokerUnavailable
from pushsvc.event import Event
from pushsvc.settings import TopicSettings
from pushsvc.sse import Decoder
from pushsvc.system_clock import now_ms
from pushsvc.topic import partition_of
from pushsvc.web import topics
from pushsvc.web.app import context_of, create_app
from support.waiting import until
from support.web_app import client_of


@pytest.fixture
def context(broker):
    """A context that describes two topics at once."""
    return replace(context_of(create_app(broker)), described_topics=2)


def test_metadata_is_read_in_parts_and_only_after_the_list_has_changed(broker, context, monkeypatch):
    """An open page polls the list every other second, perhaps for weeks."""
    reads = []
    read_metadata = broker.metadata
    monkeypatch.setattr(broker, "metadata", lambda logs: reads.append(len(logs)) or read_metadata(logs))
    for number in range(5):
        broker.publish(f"t{number}", [Event(data={"n": 1})], TopicSettings())
    seen, message = topics.poll_list(context, None)
    [sent] = Decoder().feed(message)
    assert [topic["topic"] for topic in json.loads(sent.data)["topics"]] == [f"t{number}" for number in range(5)]
    assert reads == [2, 2, 1]
    broker.publish("t0", [Event(data={"n": 2})], TopicSettings())
    assert topics.poll_list(context, seen) is None
    assert reads == [2, 2, 1]
    broker.publish("t5", [Event(data={"n": 1})], TopicSettings())
    assert topics.poll_list(context, seen) is not None


def test_the_list_is_sent_in_pieces(broker, context):
    client = client_of(topics, context)
    assert client.get("/v1/topics").json == {"topics": []}
    for number in range(5):
        broker.publish(f"t{number}", [Event(data={"n": 1})], TopicSettings())
    answer = client.get("/v1/topics", buffered=False)
    assert answer.content_type == "application/json"
    assert answer.content_length is None
    pieces = list(answer.response)
    assert len(pieces) == 4
    found = json.loads(b"".join(pieces))["topics"]
    assert [topic["topic"] for topic in found] == [f"t{number}" for number in range(5)]
    assert found[0].items() <= client.get("/v1/topics/t0").json.items()


@pytest.mark.parametrize("piece", [0, 1])
def test_a_list_that_cannot_be_read_completely_is_an_error(broker, context, monkeypatch, piece):
    for number in range(5):
        broker.publish(f"t{number}", [Event(data={"n": 1})], TopicSettings())
    client, read_metadata, reads = client_of(topics, context), broker.metadata, []

    def give(logs):
        reads.append(logs)
        if len(reads) > piece:
            raise BrokerUnavailable("made to fail")
        return read_metadata(logs)

    monkeypatch.setattr(broker, "metadata", give)
    if piece == 0:
        assert client.get("/v1/topics").status_code == 503
    else:
        with pytest.raises(BrokerUnavailable):  # the server then cuts the answer
            client.get("/v1/topics", buffered=True)


def _events_of(message):
    return [(sent.event, json.loads(sent.data)) for sent in Decoder().feed(message)]


def _publish(broker, *names):
    for name in names:
        broker.publish(name, [Event(data={"n": 1})], TopicSettings())


def _found(client, query):
    answer = client.get(f"/v1/topics?{query}").json
    return [topic["topic"] for topic in answer["topics"]], answer["total"]


def test_a_search_finds_names_that_begin_with_the_text_first(broker, context):
    client = client_of(topics, context)
    assert _found(client, "search=order") == ([], 0)
    _publish(broker, "a.orders", "Orders", "orders.b", "order", "shop", "z.ORDERS")
    assert _found(client, "search=order") == (["order", "Orders", "orders.b", "a.orders", "z.ORDERS"], 5)
    assert _found(client, "search=ORDER&limit=2") == (["order", "Orders"], 5)
    assert _found(client, "limit=2") == (["Orders", "a.orders"], 6)
    assert _found(client, "search=" + "x" * 200) == ([], 0)
    assert client.get("/v1/topics?search=order").json["topics"][0]["last_arrival"] is not None


def test_a_search_gives_a_hundred_topics_unless_more_are_asked_for(broker, context):
    client = client_of(topics, context)
    _publish(broker, *(f"t{number}" for number in range(101)))
    names, total = _found(client, "search=t")
    assert (len(names), total) == (100, 101)
    names, total = _found(client, "search=t&limit=1000")
    assert (len(names), total) == (101, 101)


@pytest.mark.parametrize(
    "query",
    ["search=" + "x" * 201, "limit=0", "limit=1001", "limit=x", "search=a&search=b", "changes=1", "changes=2",
     "format=sse&search=a", "format=sse&limit=1", "format=sse&changes=yes"],
)  # fmt: skip
def test_a_bad_search_is_refused(context, query):
    answer = client_of(topics, context).get(f"/v1/topics?{query}")
    assert answer.status_code == 400
    assert query.rpartition("&")[2].partition("=")[0] in answer.json["detail"]


def test_changes_name_the_topics_that_were_added_and_removed(broker, context):
    context = replace(context, listed_topics=3)
    _publish(broker, "a", "b", "c", "d")
    before, first = topics.poll_first(context, None)
    [(event, data)] = _events_of(first)
    assert (event, [topic["topic"] for topic in data["topics"]], data["total"]) == ("topics", ["a", "b", "c"], 4)
    assert topics.poll_first(context, before) is None
    broker.delete("d")
    _publish(broker, "e")
    after, _ = topics.poll_first(context, before)
    [(event, data)] = _events_of(topics.describe_changes(context, before, after))
    assert (event, data["removed"], data["total"]) == ("changes", ["d"], 4)
    assert [(topic["topic"], topic["exists"]) for topic in data["added"]] == [("e", True)]

    _publish(broker, "f", "g", "h", "i")
    later, _ = topics.poll_first(context, after)
    [(event, data)] = _events_of(topics.describe_changes(context, after, later))
    assert (event, len(data["topics"]), data["total"]) == ("topics", 3, 8)


def test_a_topic_that_was_created_again_is_removed_and_added(broker, context):
    _publish(broker, "a")
    before, _ = topics.poll_first(context, None)
    broker.delete("a")
    until(lambda: now_ms() > before[partition_of("a")].created["a"])
    _publish(broker, "a")
    after, _ = topics.poll_first(context, before)
    [(_, data)] = _events_of(topics.describe_changes(context, before, after))
    assert (data["removed"], [topic["topic"] for topic in data["added"]]) == (["a"], ["a"])
