"""What may be set per topic, and the rules that choose it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from pushsvc.event import FUTURE_ALLOWANCE as FUTURE_ALLOWANCE
from pushsvc.stats.window import Window
from pushsvc.topic import matches

STATISTICS = ("count", "rate", "sum", "mean", "min", "max", "std")
"""The statistics of every row."""


def _default_windows() -> tuple[Window, ...]:
    return tuple(map(Window.parse, ("1m", "5m", "15m")))


@dataclass(frozen=True, slots=True)
class TopicSettings:
    """How one topic is counted and kept.

    ``key`` says by what events are grouped: names of fields or attributes, several joined by ``+``.
    ``statistics`` are those beside STATISTICS that rows have: ``p50``, the quantile of 50 %, and so on.
    ``cadence`` and ``idle_cadence`` are the least milliseconds between two updates of a window, while somebody
    watches and while nobody does. ``retention`` is the number of events kept at least; events that a window may
    still need are kept beyond it.
    """

    windows: tuple[Window, ...] = field(default_factory=_default_windows)
    key: tuple[str, ...] = ("key",)
    statistics: tuple[str, ...] = ("p50", "p95", "p99")
    clock: Literal["wall", "event"] = "wall"
    jump: bool = False
    cadence: int = 100
    idle_cadence: int = 1_000
    max_keys: int = 10_000
    max_fields: int = 32
    retention: int = 100_000

    @property
    def percents(self) -> tuple[int, ...]:
        """The quantiles, in percent."""
        return tuple(int(name[1:]) for name in self.statistics)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a row."""
        return ("key", "field", *STATISTICS, *self.statistics, *(("by",) if len(self.key) > 1 else ()))

    @property
    def ranked(self) -> tuple[str, ...]:
        """The columns by which keys can be ranked."""
        return (*STATISTICS, *self.statistics)

    @property
    def longest(self) -> int:
        """Length of the longest window in milliseconds."""
        return max(window.length for window in self.windows)

    def window(self, name: str) -> Window | None:
        return next((window for window in self.windows if window.name == name), None)


@dataclass(frozen=True, slots=True)
class TopicRules:
    """Settings by topic or pattern, first match wins; ``default`` for all others."""

    rules: Sequence[tuple[str, TopicSettings]] = ()
    default: TopicSettings = field(default_factory=TopicSettings)

    def settings_of(self, topic: str) -> TopicSettings:
        return next((settings for pattern, settings in self.rules if matches(pattern, topic)), self.default)
