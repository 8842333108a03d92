"""Which logs a query is about."""

from pushsvc.hub import query
from pushsvc.hub.query import Query
from pushsvc.settings import TopicRules


def test_a_thousand_topics_are_not_compared_with_each_other(monkeypatch):
    """One request with as many as its address holds stood in everybody's way for a second and a half."""
    compared = []
    monkeypatch.setattr(query, "matches", lambda *pair: compared.append(pair))
    topics = [f"t{number}" for number in range(1_000)]
    asked = Query(events=(*topics, "a.*"), statistics=tuple(topics))
    assert sum(len(asked.logs_of(topic, TopicRules())) for topic in topics) == 2_000
    assert len(compared) <= 2 * len(topics)
