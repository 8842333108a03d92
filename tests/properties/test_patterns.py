"""Which patterns match a topic, and which topics a pattern: found by look-ups, and by comparing all with all."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from pushsvc.hub.feed.directory import Patterns
from pushsvc.pause import no_pause
from pushsvc.topic import Shapes, check_pattern, check_topic, matches, range_of

WORDS = st.sampled_from(["a", "b", "a-b", "A", "_", "0", "ab"])
TOPICS = st.lists(WORDS, min_size=1, max_size=5).map(".".join).map(check_topic)
PATTERNS = st.builds(
    lambda words, rest: check_pattern(".".join([*words, *rest])),
    st.lists(WORDS | st.just("*"), min_size=1, max_size=4),
    st.sampled_from([[], [">"]]),
) | st.just(">")


@dataclass(frozen=True)
class Consumer:
    patterns: tuple[str, ...]


CONSUMERS = st.lists(st.builds(Consumer, st.lists(PATTERNS, max_size=5).map(tuple)), max_size=5, unique=True)


@given(st.lists(PATTERNS, unique=True), TOPICS)
def test_candidates_are_the_patterns_that_match(patterns, topic):
    candidates = list(Shapes(patterns).candidates(topic))
    assert len(candidates) == len(set(candidates))
    assert {p for p in patterns if matches(p, topic)} == set(candidates) & set(patterns)
    assert all(matches(candidate, topic) for candidate in candidates)


@given(st.lists(PATTERNS), st.lists(PATTERNS))
def test_shapes_are_those_of_the_patterns_that_are_left(removed, left):
    shapes = Shapes(removed + left)
    for pattern in removed:
        shapes.discard(pattern)
    assert len(shapes) == len(Shapes(left))
    assert list(shapes.candidates("a.b")) == list(Shapes(left).candidates("a.b")) or removed
    assert set(shapes.candidates("a.b.a")) == set(Shapes(left).candidates("a.b.a"))


@given(PATTERNS | TOPICS, st.lists(TOPICS, unique=True).map(sorted))
def test_the_range_of_a_pattern_has_all_topics_that_match(pattern, names):
    found = range_of(pattern, names)
    prefix = pattern[: min(p for p in (pattern.find("*"), pattern.find(">"), len(pattern)) if p >= 0)]
    for place, name in enumerate(names):
        if matches(pattern, name):
            assert place in found
        if place in found:
            assert name.startswith(prefix)


@given(CONSUMERS, CONSUMERS, st.lists(TOPICS, unique=True).map(sorted))
def test_consumers_get_the_topics_of_their_patterns(left, gone, names):
    gone = [consumer for consumer in gone if consumer not in left]
    patterns = Patterns(left + gone)
    for consumer in gone:
        patterns.discard(consumer)
    among = list(patterns.among(names, no_pause))
    assert among == sorted(set(among))
    found = {(name, consumer) for name in among for consumer in patterns.matching(name, no_pause)}
    wanted = {(name, c) for name in names for c in left if any(matches(pattern, name) for pattern in c.patterns)}
    assert found == wanted
