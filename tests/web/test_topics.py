"""The list of topics: what is asked of Redis for it, and that many topics are all in it."""

import json

import pytest

from pushsvc.errors import BrokerUnavailable
from pushsvc.event import Event
from pushsvc.settings import TopicSettings
from pushsvc.sse import Decoder
from pushsvc.web import topics
from pushsvc.web.app import context_of, create_app


def test_the_figures_are_asked_for_when_the_list_has_changed_and_by_parts(broker, monkeypatch):
    """A page that is open asks every other second, and may stand open for weeks."""
    monkeypatch.setattr(topics, "_PART", 2)
    context = context_of(create_app(broker))
    asked = []
    figures = broker.metadata
    monkeypatch.setattr(broker, "metadata", lambda logs: asked.append(len(logs)) or figures(logs))
    for number in range(5):
        broker.publish(f"t{number}", [Event(data={"n": 1})], TopicSettings())
    seen, message = topics._look(context, None)
    [said] = Decoder().feed(message)
    assert [topic["topic"] for topic in json.loads(said.data)["topics"]] == [f"t{number}" for number in range(5)]
    assert asked == [2, 2, 1]
    broker.publish("t0", [Event(data={"n": 2})], TopicSettings())
    assert topics._look(context, seen) is None
    assert asked == [2, 2, 1]
    broker.publish("t5", [Event(data={"n": 1})], TopicSettings())
    assert topics._look(context, seen) is not None


def test_the_list_is_sent_in_pieces(broker, monkeypatch):
    monkeypatch.setattr(topics, "_PART", 2)
    client = create_app(broker).test_client()
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
def test_a_list_that_redis_cannot_give_whole_is_no_list(broker, monkeypatch, piece):
    monkeypatch.setattr(topics, "_PART", 2)
    for number in range(5):
        broker.publish(f"t{number}", [Event(data={"n": 1})], TopicSettings())
    client, figures, asked = create_app(broker).test_client(), broker.metadata, []

    def give(logs):
        asked.append(logs)
        if len(asked) > piece:
            raise BrokerUnavailable("made to fail")
        return figures(logs)

    monkeypatch.setattr(broker, "metadata", give)
    if piece == 0:
        assert client.get("/v1/topics").status_code == 503
    else:
        with pytest.raises(BrokerUnavailable):  # the server then cuts the answer
            client.get("/v1/topics", buffered=True)
