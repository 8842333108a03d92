"""Topic names, patterns of them, and the partition of a topic."""

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple
from zlib import crc32

from pushsvc.errors import InvalidTopic

PARTITIONS = 64  # stored in Redis; never changes for a data set
MAX_LENGTH = 200
DEAD = ".dead"  # end of the names of topics with the events that components gave up
_NAME = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\Z")
_PATTERN = re.compile(r"(?:[A-Za-z0-9_-]+|\*)(?:\.(?:[A-Za-z0-9_-]+|\*))*(?:\.>)?\Z|>\Z")


def check_topic(name: str) -> str:
    """Return ``name`` if it has 1–200 of ``A-Z a-z 0-9 _ -`` in segments separated by dots; raise InvalidTopic."""
    if len(name) > MAX_LENGTH:
        raise InvalidTopic(f"a topic has at most {MAX_LENGTH} characters, this one has {len(name)}")
    if not _NAME.match(name):
        raise InvalidTopic(f"{name!r} is not a topic: use A-Z a-z 0-9 _ - in segments separated by single dots")
    return name


def check_pattern(pattern: str) -> str:
    """Return ``pattern`` if it is a topic or has ``*`` for single segments or a final ``>``; raise InvalidTopic."""
    if len(pattern) > MAX_LENGTH or not _PATTERN.match(pattern):
        raise InvalidTopic(
            f"{pattern!r} is not a topic or pattern: '*' stands for one segment, a final '>' for the rest"
        )
    return pattern


def matches(pattern: str, topic: str) -> bool:
    """Return whether a pattern matches: ``a.*`` matches ``a.b``; ``a.>`` matches ``a.b`` and ``a.b.c``.

    A topic of dead events is matched by its name alone.
    """
    if is_dead(topic):
        return pattern == topic
    wanted, given = pattern.split("."), topic.split(".")
    if wanted[-1] == ">":
        wanted = wanted[:-1]
        if len(given) <= len(wanted):
            return False
        given = given[: len(wanted)]
    return len(wanted) == len(given) and all(w in ("*", g) for w, g in zip(wanted, given, strict=True))


def partition_of(topic: str) -> int:
    """Return the partition (0–63) of a topic: the CRC-32 of its name modulo their number."""
    return crc32(topic.encode()) % PARTITIONS


def is_dead(topic: str) -> bool:
    """Return whether a topic has events that components gave up. No pattern covers it."""
    return topic.endswith(DEAD)


def is_pattern(name: str) -> bool:
    """Return whether a name is a pattern and not a topic."""
    return "*" in name or ">" in name


class PatternShape(NamedTuple):
    """What patterns have in common that differ only in their literal words.

    ``words`` counts the words before a final ``>``, ``wildcards`` are the places of ``*`` among them, and ``rest`` is
    true if there is a ``>``.
    """

    words: int
    wildcards: tuple[int, ...]
    rest: bool

    @classmethod
    def of(cls, pattern: str) -> "PatternShape":
        words = pattern.split(".")
        rest = words[-1] == ">"
        return cls(len(words) - rest, tuple(i for i, word in enumerate(words) if word == "*"), rest)


class Shapes:
    """Finds patterns by look-ups in place of comparisons: one for each shape, however many patterns have it.

    For each shape there is at most one pattern that matches a topic: the topic itself with wildcards in their places.
    """

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        self._exact: dict[int, Counter[tuple[int, ...]]] = {}  # number of words: places of wildcards
        self._rest: dict[int, Counter[tuple[int, ...]]] = {}
        for pattern in patterns:
            self.add(pattern)

    def __len__(self) -> int:
        return sum(map(len, self._exact.values())) + sum(map(len, self._rest.values()))

    def add(self, pattern: str) -> None:
        """Count the shape of a pattern. A topic is a pattern without wildcards."""
        shape = PatternShape.of(pattern)
        (self._rest if shape.rest else self._exact).setdefault(shape.words, Counter())[shape.wildcards] += 1

    def discard(self, pattern: str) -> None:
        """Take back one ``add`` of a pattern."""
        shape = PatternShape.of(pattern)
        by_words = self._rest if shape.rest else self._exact
        counts = by_words[shape.words]
        counts[shape.wildcards] -= 1
        if not counts[shape.wildcards]:
            del counts[shape.wildcards]
        if not counts:
            del by_words[shape.words]

    def candidates(self, topic: str) -> Iterator[str]:
        """Yield the patterns that match a topic, if they exist: one of each shape that does. May be changed between
        two of them."""
        words = topic.split(".")
        if is_dead(topic):
            if () in self._exact.get(len(words), ()):
                yield topic
            return
        for wildcards in tuple(self._exact.get(len(words), ())):
            yield ".".join(_with_wildcards(words, wildcards)) if wildcards else topic
        for count in [count for count in self._rest if count < len(words)]:
            for wildcards in tuple(self._rest.get(count, ())):
                yield ".".join([*_with_wildcards(words[:count], wildcards), ">"])


def _with_wildcards(words: list[str], wildcards: tuple[int, ...]) -> list[str]:
    replaced = words.copy()
    for place in wildcards:
        replaced[place] = "*"
    return replaced


def range_of(pattern: str, names: Sequence[str]) -> range:
    """Return where the topics that a pattern may match stand in a sorted list: those with the words before its first
    wildcard."""
    places = [place for place in (pattern.find("*"), pattern.find(">")) if place >= 0]
    if not places:
        start = bisect_left(names, pattern)
        return range(start, start + (names[start : start + 1] == [pattern]))
    prefix = pattern[: min(places)]
    if not prefix:
        return range(len(names))
    return range(bisect_left(names, prefix), bisect_left(names, prefix[:-1] + "/"))  # "/" comes next after "."
