"""The list of topics: what is asked of Redis for it, and that many topics are all in it."""

import json

from pushsvc.event import Event
from pushsvc.settings import TopicSettings
from pushsvc.sse import Decoder
from pushsvc.web import context_of, create_app, topics


def test_the_figures_are_asked_for_when_the_list_has_changed_and_by_parts(broker, monkeypatch):
    """A page that is open asks every other second, and may stand open for weeks."""
    monkeypatch.setattr(topics, "_PART", 2)
    context = context_of(create_app(broker))
    asked = []
    figures = broker.figures
    monkeypatch.setattr(broker, "figures", lambda logs: asked.append(len(logs)) or figures(logs))
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
