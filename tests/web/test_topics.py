"""The list of topics: which metadata it reads from Redis, and that it is complete."""

import json
from dataclasses import replace

import pytest

from pushsvc.errors import BrokerUnavailable
from pushsvc.event import Event
from pushsvc.settings import TopicSettings
from pushsvc.sse import Decoder
from pushsvc.web import topics
from pushsvc.web.app import context_of, create_app
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
