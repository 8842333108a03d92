"""Which logs a query is about."""

from hypothesis import given
from hypothesis import strategies as st

from pushsvc.broker import Log
from pushsvc.hub import Query, query
from pushsvc.settings import TopicRules
from pushsvc.topic import matches

TOPICS = st.sampled_from(["a", "b", "a.b", "a.c", "b.c.d"])
NAMES = st.lists(TOPICS | st.sampled_from(["*", "a.*", ">", "a.>", "b.c.*"])).map(tuple)


@given(NAMES, NAMES, TOPICS)
def test_a_topic_is_named_or_under_a_pattern(events, statistics, topic):
    asked, wanted = Query(events=events, statistics=statistics, windows=("5m",)), []
    if any(matches(name, topic) for name in events):
        wanted.append(Log(topic))
    if any(matches(name, topic) for name in statistics):
        wanted.append(Log(topic, "5m"))
    assert asked.logs_of(topic, TopicRules()) == wanted
    plain = [name for name in events + statistics if "*" not in name and ">" not in name]
    assert list(asked.named_topics) == list(dict.fromkeys(plain))


def test_a_thousand_topics_are_not_compared_with_each_other(monkeypatch):
    """One request with as many as its address holds stood in everybody's way for a second and a half."""
    compared = []
    monkeypatch.setattr(query, "matches", lambda *pair: compared.append(pair))
    topics = [f"t{number}" for number in range(1_000)]
    asked = Query(events=(*topics, "a.*"), statistics=tuple(topics))
    assert sum(len(asked.logs_of(topic, TopicRules())) for topic in topics) == 2_000
    assert len(compared) <= 2 * len(topics)
