from contextlib import suppress

from pushsvc.errors import InvalidTopic
from pushsvc.topic import check_pattern, check_topic, matches, partition_of


def taken(check, names):
    """Return the names that are accepted."""
    found = []
    for name in names:
        with suppress(InvalidTopic):
            found.append(check(name))
    return found


def test_valid_topics():
    names = ["a", "A-b_9", "shop.orders.eu", "a" * 200]
    assert taken(check_topic, names) == names


def test_invalid_topics_raise():
    assert taken(check_topic, ["", "a b", ".a", "a.", "a..b", "a" * 201, "$x", "a/b", "é", "a\n", "a.*"]) == []


def test_patterns_match_segments():
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


def test_invalid_patterns_raise():
    assert taken(check_pattern, ["", "a.>.b", "a*", "a..*", ">.a"]) == []


def test_the_partition_of_a_topic_never_changes():
    assert [partition_of(t) for t in ("flights", "feedback", "a")] == [42, 24, 3]
