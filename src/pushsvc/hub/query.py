"""What a stream is about. Streams with equal queries share everything but their sockets."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import lru_cache

from pushsvc.broker.keys import Log
from pushsvc.hub.window_state import Selection
from pushsvc.settings import TopicRules
from pushsvc.topic import is_pattern, matches

EVERY_WINDOW = "*"


@dataclass(frozen=True, slots=True)
class Query:
    """Topics or patterns whose ``events`` and ``statistics`` are wanted.

    ``windows`` are names (a topic without that window has none), ``*`` all, empty the first of each topic. ``every``
    is the least seconds between two updates of a window, 0 for its own cadence. ``named`` sends an event's type as
    the SSE event name. ``topics`` bounds how many topics one stream may have.
    """

    events: tuple[str, ...] = ()
    statistics: tuple[str, ...] = ()
    windows: tuple[str, ...] = ()
    selection: Selection = field(default_factory=Selection)
    every: float = 0.0
    named: bool = True
    visible_heartbeat: bool = False
    topics: int = 1_000

    @property
    def has_patterns(self) -> bool:
        return any(map(is_pattern, (*self.events, *self.statistics)))

    @property
    def named_topics(self) -> Collection[str]:
        """Return the topics that are no patterns, each once, in the order in which they were named."""
        return _parted(self.events + self.statistics)[0]

    def logs_of(self, topic: str, rules: TopicRules) -> list[Log]:
        """Return the logs of a topic that this query is about."""
        logs = [Log(topic)] if _covers(self.events, topic) else []
        if _covers(self.statistics, topic):
            logs += [Log(topic, name) for name in self._windows(topic, rules)]
        return logs

    def _windows(self, topic: str, rules: TopicRules) -> list[str]:
        names = [window.name for window in rules.settings_of(topic).windows]
        if not self.windows:
            return names[:1]
        return names if EVERY_WINDOW in self.windows else [name for name in names if name in self.windows]


def _covers(names: tuple[str, ...], topic: str) -> bool:
    named, patterns = _parted(names)
    return topic in named or any(matches(pattern, topic) for pattern in patterns)


@lru_cache(256)
def _parted(names: tuple[str, ...]) -> tuple[dict[str, None], tuple[str, ...]]:
    """Return topics and patterns apart: a stream may name a thousand, and each is asked for."""
    return dict.fromkeys(name for name in names if not is_pattern(name)), tuple(filter(is_pattern, names))
