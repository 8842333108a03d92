"""Which logs a query covers."""

from pushsvc import topic
from pushsvc.auth.grants import Grant, TopicGrants
from pushsvc.cursor import DIGEST_LENGTH
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
        return Query(**{"events": ("a", "b.>"), "statistics": ("c.>",), **changed}).digest

    assert digest(events=("b.>", "a", "b.>")) == digest(every=1.0) == digest(named=False) == digest()
    grants = [TopicGrants([Grant("a")]), TopicGrants([Grant("a"), Grant("b", frozenset("k"))])]
    of_events = [digest(events=("a", "b.*")), digest(events=("c", "b.>")), digest(events=("a",))]
    of_statistics = [
        digest(statistics=()), digest(windows=("1m",)), digest(windows=("*",)),
        digest(selection=Selection(keys=frozenset(["u"]))), digest(selection=Selection(keys=frozenset(["u", None]))),
        digest(selection=Selection(keys=frozenset())), digest(selection=Selection(fields=frozenset(["u"]))),
        digest(selection=Selection(records=True)), digest(selection=Selection(top=3)),
    ]  # fmt: skip
    found = {digest(), *of_events, *of_statistics, *(digest(visible=one) for one in grants)}
    assert len(found) == 1 + len(of_events) + len(of_statistics) + len(grants)
    assert all(len(one) == DIGEST_LENGTH for one in found)


def test_cursor_tells_whether_patterns_of_events_or_statistics_are_new():
    asked = Query(events=("a.*",), statistics=("c",))
    assert asked.reselects(asked.digest) == asked.reselects(b"") == (False, False)
    assert asked.reselects(Query(events=("a.*",)).digest) == (False, True)
    assert asked.reselects(Query(events=("a.*", "b"), statistics=("c",)).digest) == (True, False)
    assert Query(events=("a.*",)).reselects(asked.digest) == (False, False)
    assert Query(events=("a",)).reselects(asked.digest) == (False, False)


def test_position_in_the_events_of_named_topics_has_no_digest():
    filter = EventFilter.of("sale", frozenset(["u"]), ["n=1"])
    assert Query(events=("a",), filter=filter).digest == Query(events=("a", "b")).digest == b""
    assert Query(events=("a.*",)).digest
