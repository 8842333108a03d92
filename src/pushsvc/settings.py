"""What may be set per topic, the rules that choose it, and what an acknowledgement says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from pushsvc.event import FUTURE_ALLOWANCE as FUTURE_ALLOWANCE
from pushsvc.stats.statistic_names import is_exact, is_of_values, percent_of
from pushsvc.stats.window import Window
from pushsvc.topic import matches

_LAST = re.compile("last *([0-9]+)")

STATISTICS = ("count", "rate", "sum", "mean", "min", "max", "std")
"""The statistics of every row."""


LOG_FULL_FACTOR = 4
"""A log with so many times its ``retention_bytes`` takes no more: its windows need them all, and memory has an end."""


def _default_windows() -> tuple[Window, ...]:
    return tuple(map(Window.parse, ("1m", "5m", "15m")))


@dataclass(frozen=True, slots=True)
class TopicSettings:
    """How one topic is counted and kept.

    ``key`` says by what events are grouped: names of fields or attributes, several joined by ``+``.
    ``statistics`` are those beside STATISTICS that rows have: ``p50``, the quantile of 50 %, and so on, and of the
    fields named in ``values`` also ``distinct``, ``top`` (``top5``), ``first`` and ``last``. Of such a field at most
    ``max_values`` different values are followed one by one.
    ``cadence`` and ``idle_cadence`` are the least milliseconds between two updates of a window, while somebody
    watches and while nobody does. ``exact`` makes the windows of time true to the millisecond, of the newest
    ``max_events`` events of a topic at most. ``parts`` are the processes among which its keys are divided.

    The oldest events of a log go when there are more than ``retention``, when they are older than ``retention_age``
    (ms since they arrived; 0: no bound), or when all together have more than ``retention_bytes`` (0: no bound); but
    events that a window may still need are kept beyond all three.
    """

    windows: tuple[Window, ...] = field(default_factory=_default_windows)
    key: tuple[str, ...] = ("key",)
    statistics: tuple[str, ...] = ("p50", "p95", "p99")
    values: tuple[str, ...] = ()
    clock: Literal["wall", "event"] = "wall"
    jump: bool = False
    cadence: int = 100
    idle_cadence: int = 1_000
    max_keys: int = 10_000
    max_fields: int = 32
    exact: bool = False
    max_events: int = 100_000
    max_values: int = 10_000
    parts: int = 1
    retention: int = 100_000
    retention_age: int = 0
    retention_bytes: int = 500_000_000

    def __post_init__(self) -> None:
        if self.exact:
            object.__setattr__(self, "windows", tuple(window.exact() for window in self.windows))

    @property
    def percents(self) -> tuple[int, ...]:
        """The quantiles, in percent."""
        return tuple(percent for percent in map(percent_of, self.statistics) if percent)

    @property
    def value_statistics(self) -> tuple[str, ...]:
        """The statistics of values."""
        return tuple(filter(is_of_values, self.statistics))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a row."""
        near = ("approximate",) if self.value_statistics and not all(map(is_exact, self.value_statistics)) else ()
        by = ("by",) if len(self.key) > 1 else ()
        return ("key", "field", *STATISTICS, *self.statistics, *near, *by)

    @property
    def rankable(self) -> tuple[str, ...]:
        """The columns by which keys can be ranked: those of numbers."""
        return (*STATISTICS, *(name for name in self.statistics if name == "distinct" or percent_of(name)))

    @property
    def longest_window(self) -> int:
        """Length of the longest window in milliseconds; 0 where all count events."""
        return max(window.length for window in self.windows)

    @property
    def largest_count_window(self) -> int:
        """Events of the longest window that counts events; 0 where none does."""
        return max(window.events for window in self.windows)

    def late_before(self, clock: int) -> int | None:
        """Return the ms before which an event is too old for every window; None if a window takes events of any age."""
        if self.largest_count_window:
            return None
        return min(window.start(clock) for window in self.windows)

    @property
    def full_bytes(self) -> int:
        """Bytes from which on the log takes no more; 0: there is no such bound."""
        return LOG_FULL_FACTOR * self.retention_bytes

    def window(self, name: str) -> Window | None:
        """Return a window by its name; one that counts events by any spelling of it, such as ``last1000``."""
        found = _LAST.fullmatch(name)
        name = f"last {found[1]}" if found else name
        return next((window for window in self.windows if window.name == name), None)


@dataclass(frozen=True, slots=True)
class Ack:
    """What has happened to events before a publish is answered with 202.

    They are in Redis's memory; with ``fsync`` also on the disk beside it; with ``replicas`` also in the memory of at
    least so many replicas.
    """

    fsync: bool = False
    replicas: int = 0

    @classmethod
    def parse(cls, text: str) -> Ack:
        """Return what ``memory``, ``fsync`` or ``replicas:2`` says; raise ValueError for anything else."""
        found = re.fullmatch("memory|(fsync)|replicas:([1-9][0-9]?)", text, re.ASCII)
        if not found:
            raise ValueError(f"{text!r} is none of memory, fsync and replicas:N (N from 1 to 99)")
        return cls(found[1] is not None, int(found[2] or 0))

    def __str__(self) -> str:
        return "fsync" if self.fsync else f"replicas:{self.replicas}" if self.replicas else "memory"

    def __bool__(self) -> bool:
        """Tell whether there is anything to wait for."""
        return self.fsync or self.replicas > 0


@dataclass(frozen=True, slots=True)
class TopicRules:
    """Settings by topic or pattern, first match wins; ``default`` for all others."""

    rules: Sequence[tuple[str, TopicSettings]] = ()
    default: TopicSettings = field(default_factory=TopicSettings)

    def settings_of(self, topic: str) -> TopicSettings:
        return next((settings for pattern, settings in self.rules if matches(pattern, topic)), self.default)
