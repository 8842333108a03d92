"""The query of a stream. Streams with equal queries share everything but their sockets."""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b

from pushsvc import sse
from pushsvc.auth.grants import TopicGrants
from pushsvc.broker.keys import Log
from pushsvc.cursor import DIGEST_LENGTH
from pushsvc.event.conditions import EventFilter
from pushsvc.hub.window_state import Selection
from pushsvc.settings import TopicRules
from pushsvc.topic import Shapes, is_pattern

EVERY_WINDOW = "*"
_EVERYTHING = Selection()
_EVERY_EVENT = EventFilter()


@dataclass(frozen=True, slots=True)
class Query:
    """Topics or patterns whose ``events`` and ``statistics`` a stream sends.

    ``windows`` are names, or ``*`` for all windows; empty means the first window of each topic. ``every`` is the
    shortest time in seconds between two updates of a window, 0 for the window's own cadence. ``named`` sends the type
    of an event as the SSE event name. ``topics`` is the most topics of one stream. Topics that the grants ``visible``
    do not cover without a limit do not exist; None: all do. Only a query of the events of one topic has a ``filter``.
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
        """Return what cursors say of the selection; nothing if that is the events of one topic, whatever the filter.

        A position in one log of events holds for each filter, and without a digest the ids of events are shorter.
        """
        if self._digest is None:
            one_log = not self.statistics and len(self.events) == 1 and not self.has_patterns
            object.__setattr__(self, "_digest", b"" if one_log else self._digest_of_selection())
        return self._digest or b""

    def _digest_of_selection(self) -> bytes:
        chosen = self.selection
        selected = (
            *map(_in_order, (self.events, self.statistics, self.windows, chosen.keys, chosen.fields)),
            chosen.records, chosen.top, chosen.by, sorted(map(str, self.visible.listed())) if self.visible else None,
        )  # fmt: skip
        return blake2b(repr(selected).encode(), digest_size=DIGEST_LENGTH).digest()

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

    def logs_of(self, topic: str, rules: TopicRules) -> list[Log]:
        """Return the logs of a topic that this query covers."""
        return next(self.logs_of_each([topic], rules))

    def logs_of_each(self, topics: Iterable[str], rules: TopicRules) -> Iterator[list[Log]]:
        """Yield for each topic its logs that this query covers."""
        events, statistics = self._covers
        for topic in topics:
            if self.visible is not None and self.visible.keys(topic) is not None:
                yield []
                continue
            logs = [Log(topic)] if events(topic) else []
            if statistics(topic):
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


class _Index:
    """Finds out whether names of topics and patterns cover a topic, by a few look-ups however many names there are."""

    __slots__ = ("_names", "_shapes")

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = frozenset(names)
        self._shapes = Shapes(filter(is_pattern, names))

    def covers(self, topic: str) -> bool:
        return topic in self._names or not self._names.isdisjoint(self._shapes.candidates(topic))


def _in_order(names: Collection[str | None] | None) -> list[str | None] | None:
    return None if names is None else sorted(set(names), key=lambda name: (name is not None, name or ""))


@lru_cache(256)
def _topics_and_patterns(names: tuple[str, ...]) -> tuple[dict[str, None], tuple[str, ...]]:
    """Split names into topics and patterns. Cached for patterns, which are compared with every new topic. The hash of
    a thousand names takes time too, so this is called once for many topics."""
    return dict.fromkeys(name for name in names if not is_pattern(name)), tuple(filter(is_pattern, names))
