"""Which logs a query covers."""

from pushsvc import topic
from pushsvc.hub.query import Query
from pushsvc.settings import TopicRules


def test_names_of_a_query_are_not_compared_with_each_topic(monkeypatch):
    """A request with as many topics as its URL holds blocked the process for a second and a half."""
    lookups = []
    original = topic.Shapes.candidates

    def candidates(self, name):
        for candidate in original(self, name):
            lookups.append(candidate)
            yield candidate

    monkeypatch.setattr(topic.Shapes, "candidates", candidates)
    topics = [f"t{number}" for number in range(1_000)]
    patterns = [f"a.*.n{number}" for number in range(1_000)]
    asked = Query(events=(*topics, *patterns), statistics=tuple(topics))
    assert sum(len(asked.logs_of(topic, TopicRules())) for topic in topics) == 2_000
    assert sum(len(asked.logs_of(f"a.b.n{number}", TopicRules())) for number in range(1_000)) == 1_000
    assert len(lookups) <= 2_000
