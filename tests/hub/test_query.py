"""Which logs a query covers."""

from pushsvc import topic
from pushsvc.auth.grants import Grant, TopicGrants
from pushsvc.event.conditions import EventFilter
from pushsvc.hub.query import Query
from pushsvc.hub.window_state import Selection
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


def test_digest_is_that_of_the_selection():
    def digest(**changed):
        return Query(**{"events": ("a", "b"), "statistics": ("c.>",), **changed}).digest

    assert digest(events=("b", "a", "b")) == digest(every=1.0) == digest(named=False) == digest()
    others = [
        digest(events=("a",)), digest(statistics=()), digest(windows=("1m",)), digest(windows=("*",)),
        digest(selection=Selection(keys=frozenset(["u"]))), digest(selection=Selection(keys=frozenset(["u", None]))),
        digest(selection=Selection(keys=frozenset())), digest(selection=Selection(fields=frozenset(["u"]))),
        digest(selection=Selection(records=True)), digest(selection=Selection(top=3)),
        digest(visible=TopicGrants([Grant("a")])),
        digest(visible=TopicGrants([Grant("a"), Grant("b", frozenset("k"))])),
    ]  # fmt: skip
    assert len({digest(), *others}) == len(others) + 1
    assert all(len(one) == 4 for one in others)


def test_position_in_the_events_of_one_topic_has_no_digest():
    filter = EventFilter.of("sale", frozenset(["u"]), ["n=1"])
    assert Query(events=("a",), filter=filter).digest == Query(events=("a",)).digest == b""
    assert Query(events=("a.*",)).digest
