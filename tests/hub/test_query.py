"""Which logs a query covers."""

from pushsvc.hub import query
from pushsvc.hub.query import Query
from pushsvc.settings import TopicRules


def test_topics_of_a_query_are_not_compared_with_each_other(monkeypatch):
    """A request with as many topics as its URL holds blocked the process for a second and a half."""
    compared = []
    monkeypatch.setattr(query, "matches", lambda *pair: compared.append(pair))
    topics = [f"t{number}" for number in range(1_000)]
    asked = Query(events=(*topics, "a.*"), statistics=tuple(topics))
    assert sum(len(asked.logs_of(topic, TopicRules())) for topic in topics) == 2_000
    assert len(compared) <= 2 * len(topics)
