"""The query of a stream. Streams with equal queries share everything but their sockets."""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

from pushsvc import sse
from pushsvc.auth.grants import NO_KEYS, TopicGrants
from pushsvc.broker.keys import Log
from pushsvc.cursor import DIGEST_LENGTH
from pushsvc.event.conditions import EventFilter
from pushsvc.hub.window_state import Selection
from pushsvc.settings import TopicRules
from pushsvc.topic import Shapes, is_pattern

EVERY_WINDOW = "*"
_EVERYTHING = Selection()
_EVERY_EVENT = EventFilter()
_NO_DIGEST = bytes(DIGEST_LENGTH // 2)


class Reselected(NamedTuple):
    """Whether the client has selected other patterns of events, or other statistics, since its cursor."""

    events: bool = False
    statistics: bool = False


NOTHING_RESELECTED = Reselected()


@dataclass(frozen=True, slots=True)
class Query:
    """Topics or patterns whose ``events`` and ``statistics`` a stream sends.

    ``windows`` are names, or ``*`` for all windows; empty means the first window of each topic. ``every`` is the
    shortest time in seconds between two updates of a window, 0 for the window's own cadence. ``named`` sends the type
    of an event as the SSE event name. ``topics`` is the most topics of one stream. Topics that the grants ``visible``
    do not cover do not exist, nor do other keys of topics that they limit; None: all do. Only a query of the events of
    one name has a ``filter``.
    """

    events: tuple[str, ...] = ()
    statistics: tuple[str, ...] = ()
    windows: tuple[str, ...] = ()
    selection: Selection = _EVERYTHING
    filter: EventFilter = _EVERY_EVENT
    every: float = 0.0
    named: bool = True
    visible_heartbeat: bool = False
    topics: int = 1_000
    visible: TopicGrants | None = None
    # Of events and statistics. Made at the first use: most queries have no pattern.
    _indexes: tuple["_Index", "_Index"] | None = field(default=None, init=False, repr=False, compare=False)
    _digest: bytes | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def has_patterns(self) -> bool:
        return bool(self.patterns)

    @property
    def patterns(self) -> tuple[str, ...]:
        """Return the patterns of events and statistics."""
        return _topics_and_patterns(self.events + self.statistics)[1]

    @property
    def digest(self) -> bytes:
        """Return what cursors say of the selection: 4 bytes of patterns of events and 4 of statistics, zeros without.

        It is empty if events are named alone. A cursor has a position of each, so it shows itself which are new.
        """
        if self._digest is None:
            digest = self._digest_of_events() + self._digest_of_statistics()
            object.__setattr__(self, "_digest", digest if any(digest) else b"")
        return self._digest or b""

    def _digest_of_events(self) -> bytes:
        if not any(map(is_pattern, self.events)):
            return _NO_DIGEST
        return _digest_of(_in_order(self.events), self._visible)

    def _digest_of_statistics(self) -> bytes:
        chosen = self.selection
        if not self.statistics:
            return _NO_DIGEST
        names = map(_in_order, (self.statistics, self.windows, chosen.keys, chosen.fields))
        return _digest_of(*names, chosen.records, chosen.top, chosen.by, self._visible)

    @property
    def _visible(self) -> list[str] | None:
        return None if self.visible is None else sorted(map(str, self.visible.listed()))

    def reselects(self, digest: bytes) -> Reselected:
        """Return what a cursor with a digest, or an older one without, has not had in its selection."""
        if not digest or not self.digest:
            return NOTHING_RESELECTED
        (events, statistics), (old_events, old_statistics) = _halves(self.digest), _halves(digest)
        return Reselected(
            events != _NO_DIGEST and events != old_events, statistics != _NO_DIGEST and statistics != old_statistics
        )

    @property
    def reserved_names(self) -> frozenset[str] | None:
        """Return the types of events that are no SSE event names; None if no type is one."""
        if not self.named:
            return None
        return sse.RESERVED_BESIDE_STATISTICS if self.statistics else sse.RESERVED_NAMES

    @property
    def named_topics(self) -> Collection[str]:
        """Return the topics that are not patterns, each once, in the order of the query."""
        return _topics_and_patterns(self.events + self.statistics)[0]

    @property
    def filters_events(self) -> bool:
        """Return whether a log may have events of which none is selected."""
        return not self.filter.selects_all or (self.visible is not None and self.visible.limits_keys)

    @property
    def routed_filter(self) -> EventFilter:
        """Return the filter by which events are routed: that of a query of one topic."""
        return _EVERY_EVENT if self.has_patterns else self.filter

    @property
    def filters_patterns(self) -> bool:
        """Return whether each event of the topics of a pattern is compared with a filter."""
        return self.filter.has_tests and self.has_patterns

    def filter_of(self, topic: str) -> EventFilter:
        """Return which events of a topic are selected."""
        keys = None if self.visible is None else self.visible.keys(topic)
        return self.filter if keys is None else _filter_within(self.filter, keys)

    def selection_of(self, topic: str) -> Selection:
        """Return which rows of a topic are selected."""
        keys = None if self.visible is None else self.visible.keys(topic)
        return self.selection if keys is None else self.selection.within(keys)

    def logs_of(self, topic: str, rules: TopicRules) -> list[Log]:
        """Return the logs of a topic that this query covers."""
        return next(self.logs_of_each([topic], rules))

    def logs_of_each(self, topics: Iterable[str], rules: TopicRules) -> Iterator[list[Log]]:
        """Yield for each topic its logs that this query covers."""
        events, statistics = self._covers
        for topic in topics:
            keys = None if self.visible is None else self.visible.keys(topic)
            if keys == NO_KEYS:
                yield []
                continue
            logs = [Log(topic)] if events(topic) else []
            if statistics(topic) and (keys is None or rules.settings_of(topic).is_grouped_by_key):
                logs += [Log(topic, name) for name in self._windows(topic, rules)]
            yield logs

    @property
    def _covers(self) -> tuple[Callable[[str], bool], Callable[[str], bool]]:
        """Return whether a topic is one of the events, and whether it is one of the statistics."""
        if not self.has_patterns:
            return _topics_and_patterns(self.events)[0].__contains__, _topics_and_patterns(self.statistics)[
                0
            ].__contains__
        indexes = self._indexes
        if indexes is None:
            indexes = (_Index(self.events), _Index(self.statistics))
            object.__setattr__(self, "_indexes", indexes)
        return indexes[0].covers, indexes[1].covers

    def _windows(self, topic: str, rules: TopicRules) -> list[str]:
        names = [window.name for window in rules.settings_of(topic).windows]
        if not self.windows:
            return names[:1]
        return names if EVERY_WINDOW in self.windows else [name for name in names if name in self.windows]


@dataclass(frozen=True, slots=True)
class LatestQuery:
    """The newest events of a topic, of some ``keys`` or of all (None). ``limited``: the subscriber may see these keys
    alone, so nothing may tell of others."""

    topic: str
    keys: frozenset[str] | None = None
    limited: bool = False
    visible_heartbeat: bool = False

    @property
    def digest(self) -> bytes:
        """Return what cursors say of the selection: a cursor of another one begins with a snapshot."""
        return _NO_DIGEST + _digest_of("latest", self.topic, None if self.keys is None else sorted(self.keys))


class _Index:
    """Finds out whether names of topics and patterns cover a topic, by a few look-ups however many names there are."""

    __slots__ = ("_names", "_shapes")

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = frozenset(names)
        self._shapes = Shapes(filter(is_pattern, names))

    def covers(self, topic: str) -> bool:
        return topic in self._names or not self._names.isdisjoint(self._shapes.candidates(topic))


@lru_cache(1_024)
def _filter_within(filter: EventFilter, keys: frozenset[str]) -> EventFilter:
    return replace(filter, keys=keys if filter.keys is None else filter.keys & keys)


def _digest_of(*selected: object) -> bytes:
    return blake2b(repr(selected).encode(), digest_size=DIGEST_LENGTH // 2).digest()


def _halves(digest: bytes) -> tuple[bytes, bytes]:
    return digest[: DIGEST_LENGTH // 2], digest[DIGEST_LENGTH // 2 :]


def _in_order(names: Collection[str | None] | None) -> list[str | None] | None:
    return None if names is None else sorted(set(names), key=lambda name: (name is not None, name or ""))


@lru_cache(256)
def _topics_and_patterns(names: tuple[str, ...]) -> tuple[dict[str, None], tuple[str, ...]]:
    """Split names into topics and patterns. Cached for patterns, which are compared with every new topic. The hash of
    a thousand names takes time too, so this is called once for many topics."""
    return dict.fromkeys(name for name in names if not is_pattern(name)), tuple(filter(is_pattern, names))
