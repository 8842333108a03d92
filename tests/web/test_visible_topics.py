"""The part of the list of topics that grants cover."""

from __future__ import annotations

import pytest

from pushsvc.auth.grants import ALL_TOPICS, read_grants
from pushsvc.broker.broker import Broker
from pushsvc.event import Event
from pushsvc.hub.feed.topic_list import TopicList, changes, in_order
from pushsvc.settings import TopicSettings
from pushsvc.web.visible_topics import VisibleTopics

TOPICS = ("news", "orders", "shop", "shop.a", "shop.a.b", "shop2.a", "vault")


def visible(*grants: object) -> VisibleTopics:
    return VisibleTopics(read_grants({"subscribe": list(grants)}).subscribe)


@pytest.fixture
def topics(broker: Broker) -> TopicList:
    broker.check_layout()
    broker.open_partitions()
    for topic in TOPICS:
        broker.publish(topic, [Event(data={"n": 1})], TopicSettings())
    return TopicList(broker)


@pytest.mark.parametrize(
    ("grants", "names"),
    [
        ([], []),
        (["shop.>"], ["shop.a", "shop.a.b"]),
        (["shop.*", "shop.>", "shop.a"], ["shop.a", "shop.a.b"]),
        (["*"], ["news", "orders", "shop", "vault"]),
        (["*.a", "news", "nowhere"], ["news", "shop.a", "shop2.a"]),
        ([{"topics": "orders", "keys": ["k"]}, {"topics": "vault", "keys": []}], ["orders"]),
        ([">"], list(TOPICS)),
        ([{"topics": ">", "keys": ["k"]}], list(TOPICS)),
    ],
)
def test_only_granted_topics_exist(topics: TopicList, grants: list[object], names: list[str]) -> None:
    assert list(in_order(visible(*grants).read(topics))) == sorted(names)


def test_what_has_not_changed_is_the_same_object(topics: TopicList, broker: Broker) -> None:
    part = visible("shop.>")
    before = part.read(topics)
    assert all(one is other for one, other in zip(before, part.read(topics), strict=True))
    for topic in ("hidden", "shop.c"):
        broker.publish(topic, [Event(data={"n": 1})], TopicSettings())
    assert changes(before, part.read(topics)) == (["shop.c"], [])


def test_requests_that_see_the_same_share_a_list() -> None:
    assert VisibleTopics(ALL_TOPICS).shared_by is None
    assert visible("a", "b").shared_by == visible("b", "a").shared_by
    limited = [visible("a", {"topics": "b", "keys": [key]}) for key in "xy"]
    assert limited[0].shared_by == limited[1].shared_by  # the list shows no keys
    assert limited[0].shared_by != visible("a", "b").shared_by  # it hides figures
    assert [limited[0].is_limited(topic) for topic in "ab"] == [False, True]
