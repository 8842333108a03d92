import pytest

from pushsvc.errors import InvalidTopic
from pushsvc.topic import check_pattern, check_topic, matches, partition_of


@pytest.mark.parametrize("name", ["a", "A-b_9", "shop.orders.eu", "a" * 200])
def test_topics(name):
    assert check_topic(name) == name


@pytest.mark.parametrize("name", ["", "a b", ".a", "a.", "a..b", "a" * 201, "$x", "a/b", "é", "a\n", "a.*"])
def test_what_is_no_topic(name):
    with pytest.raises(InvalidTopic):
        check_topic(name)


@pytest.mark.parametrize(
    ("pattern", "topic", "covered"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("*.b", "a.b", True),
        ("a.>", "a.b", True),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        (">", "a.b", True),
    ],
)
def test_patterns(pattern, topic, covered):
    assert matches(check_pattern(pattern), topic) is covered


@pytest.mark.parametrize("pattern", ["", "a.>.b", "a*", "a..*", ">.a"])
def test_what_is_no_pattern(pattern):
    with pytest.raises(InvalidTopic):
        check_pattern(pattern)


def test_the_partition_of_a_topic_is_the_same_for_ever():
    assert [partition_of(t) for t in ("flights", "feedback", "a")] == [42, 24, 3]
