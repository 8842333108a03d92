"""Which logs a query covers."""

from hypothesis import given
from hypothesis import strategies as st

from pushsvc.broker.keys import Log
from pushsvc.hub.query import Query
from pushsvc.settings import TopicRules
from pushsvc.topic import matches

TOPICS = st.sampled_from(["a", "b", "a.b", "a.c", "b.c.d"])
NAMES = st.lists(TOPICS | st.sampled_from(["*", "a.*", ">", "a.>", "b.c.*"])).map(tuple)


@given(NAMES, NAMES, TOPICS)
def test_query_covers_named_topics_and_those_of_its_patterns(events, statistics, topic):
    asked, wanted = Query(events=events, statistics=statistics, windows=("5m",)), []
    if any(matches(name, topic) for name in events):
        wanted.append(Log(topic))
    if any(matches(name, topic) for name in statistics):
        wanted.append(Log(topic, "5m"))
    assert asked.logs_of(topic, TopicRules()) == wanted
    plain = [name for name in events + statistics if "*" not in name and ">" not in name]
    assert list(asked.named_topics) == list(dict.fromkeys(plain))
