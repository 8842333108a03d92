from contextlib import suppress

from pushsvc.errors import InvalidTopic
from pushsvc.topic import check_pattern, check_topic, matches, partition_of


def taken(check, names):
    """Return those of names that are not refused."""
    found = []
    for name in names:
        with suppress(InvalidTopic):
            found.append(check(name))
    return found


def test_topics():
    names = ["a", "A-b_9", "shop.orders.eu", "a" * 200]
    assert taken(check_topic, names) == names


def test_what_is_no_topic():
    assert taken(check_topic, ["", "a b", ".a", "a.", "a..b", "a" * 201, "$x", "a/b", "é", "a\n", "a.*"]) == []


def test_patterns():
    for pattern, topic, covered in [
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
    ]:
        assert matches(check_pattern(pattern), topic) is covered


def test_what_is_no_pattern():
    assert taken(check_pattern, ["", "a.>.b", "a*", "a..*", ">.a"]) == []


def test_the_partition_of_a_topic_is_the_same_for_ever():
    assert [partition_of(t) for t in ("flights", "feedback", "a")] == [42, 24, 3]
