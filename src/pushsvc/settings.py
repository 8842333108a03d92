"""Settings of topics, the rules that select them, and the safety of an acknowledgement."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

from pushsvc.errors import InvalidSetting
from pushsvc.event import FUTURE_ALLOWANCE as FUTURE_ALLOWANCE
from pushsvc.stats.statistic_names import is_exact, is_of_values, percent_of
from pushsvc.stats.window import LIFETIME, Window
from pushsvc.topic import is_dead, matches

_LAST = re.compile("last *([0-9]+)")
STATISTICS = ("count", "rate", "sum", "mean", "min", "max", "std")  # the statistics of every row
LATEST_BYTES = 65_536  # of the largest event of a topic with ``latest``
MAX_LATEST_KEYS = 100_000  # Redis returns the keys of such a topic at one instant
LIFETIME_AGE = 60_000  # ms for which the log keeps events for a window ``all``: they may not be in its record yet
LOG_FULL_FACTOR = 4  # times ``retention_bytes``, at which a log is full: windows need all events, but memory is limited


@dataclass(frozen=True, slots=True)
class TopicSettings:
    """How the events of a topic are aggregated and retained. A topic without ``windows`` has events only.

    ``key`` lists the groupings: names of fields or attributes, several joined by ``+``. ``statistics`` are the
    statistics of rows beside STATISTICS: quantiles such as ``p50``, and for the fields named in ``values`` also
    ``distinct``, ``top`` (``top5``), ``first`` and ``last``, which count at most ``max_values`` values of a field.
    ``cadence`` and ``idle_cadence`` are the least milliseconds between two updates of a window, with subscribers and
    with requests alone. ``exact`` makes time windows exact to the millisecond, for at most ``max_events`` events of the
    topic.
    ``parts`` is the number of shards, each a process, that share its keys; with several there are neither ``values``
    nor exact windows nor windows of the last N events.

    With ``latest`` the newest event of each key is kept beside the log, of at most ``max_keys`` keys. An event whose
    type is in ``latest_deletes`` removes its key. ``index`` lists the fields by whose values history finds events
    without reading the log: fields, ``key`` and ``type``.

    The window ``all`` has no ``values``, and has no part in what follows.

    A log drops its oldest events beyond ``retention`` events, those that arrived more than ``retention_age`` ms ago
    (0: no limit), and those beyond ``retention_bytes`` (0: no limit), but never an event that a window may still need.
    A topic without events and streams for ``expire_after`` ms (0: for ever) ends.
    """

    windows: tuple[Window, ...] = tuple(map(Window.parse, ("1m", "5m", "15m")))
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
    expire_after: int = 0
    latest: bool = False
    latest_deletes: tuple[str, ...] = ("delete", "deleted")
    index: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.exact:
            object.__setattr__(self, "windows", tuple(window.exact() for window in self.windows))
        if self.parts > 1:
            self._check_parts()

    def _check_parts(self) -> None:
        """Raise InvalidSetting for a topic whose parts cannot be merged exactly."""
        for reason, is_set in (
            ("values", self.values),
            ("exact windows", self.exact),
            ("windows of the last N events", self.largest_count_window),
        ):
            if is_set:
                raise InvalidSetting(f"a topic with {reason} cannot have parts: their results cannot be merged exactly")

    @property
    def is_grouped_by_key(self) -> bool:
        """Return whether the rows are those of the keys of events."""
        return self.key == ("key",)

    @property
    def percents(self) -> tuple[int, ...]:
        """The quantiles in percent."""
        return tuple(percent for percent in map(percent_of, self.statistics) if percent)

    @property
    def value_statistics(self) -> tuple[str, ...]:
        """The chosen statistics of values."""
        return tuple(filter(is_of_values, self.statistics))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a row."""
        approximate = () if all(map(is_exact, self.value_statistics)) else ("approximate",)
        by = ("by",) if len(self.key) > 1 else ()
        return ("key", "field", *STATISTICS, *self.statistics, *approximate, *by)

    @property
    def rankable(self) -> tuple[str, ...]:
        """The columns by which keys can be ranked: those with numbers."""
        return (*STATISTICS, *(name for name in self.statistics if name == "distinct" or percent_of(name)))

    @property
    def longest_window(self) -> int:
        """Length of the longest time window in milliseconds; 0 if there is none."""
        return max((window.length for window in self.windows), default=0)

    @property
    def largest_count_window(self) -> int:
        """Events of the largest count window; 0 if there is none."""
        return max((window.events for window in self.windows), default=0)

    def late_before(self, clock: int) -> int | None:
        """Return the ms before which an event is too old for every window; None if no event is."""
        if not self.windows or not all(window.length for window in self.windows):
            return None
        return min(window.start(clock) for window in self.windows)

    @property
    def rolling(self) -> TopicSettings:
        """The same settings without the window ``all``, whose events are counted elsewhere."""
        return _rolling(self) if LIFETIME in self.windows else self

    @property
    def lifetime(self) -> TopicSettings | None:
        """The settings by which the window ``all`` is counted; None without that window."""
        return _lifetime(self) if LIFETIME in self.windows else None

    @property
    def full_bytes(self) -> int:
        """Bytes at which the log is full; 0: never. Without windows nothing keeps the log from dropping events."""
        return LOG_FULL_FACTOR * self.retention_bytes if self.windows else 0

    def window(self, name: str) -> Window | None:
        """Return a window by its name, or None. A count window has several spellings, such as ``last1000``."""
        found = _LAST.fullmatch(name)
        name = f"last {found[1]}" if found else name
        return next((window for window in self.windows if window.name == name), None)


@lru_cache(1_000)
def _rolling(settings: TopicSettings) -> TopicSettings:
    return replace(settings, windows=tuple(window for window in settings.windows if not window.is_lifetime))


@lru_cache(1_000)
def _lifetime(settings: TopicSettings) -> TopicSettings:
    quantiles = tuple(name for name in settings.statistics if percent_of(name))
    return replace(
        settings, windows=(LIFETIME,), statistics=quantiles, values=(), clock="wall", exact=False,
        max_events=0, max_values=0, retention=0, retention_age=0, retention_bytes=0, expire_after=0, latest=False,
        index=(),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ack:
    """What must hold events before publishing is answered with 202.

    That is the memory of Redis, with ``fsync`` also its disk, and with ``replicas`` also the memory of that many
    replicas.
    """

    fsync: bool = False
    replicas: int = 0

    @classmethod
    def parse(cls, text: str) -> Ack:
        """Return the Ack of ``memory``, ``fsync`` or ``replicas:2``; raise ValueError for any other text."""
        found = re.fullmatch("memory|(fsync)|replicas:([1-9][0-9]?)", text, re.ASCII)
        if not found:
            raise ValueError(f"{text!r} must be memory, fsync or replicas:N (N from 1 to 99)")
        return cls(found[1] is not None, int(found[2] or 0))

    def __str__(self) -> str:
        return "fsync" if self.fsync else f"replicas:{self.replicas}" if self.replicas else "memory"

    def __bool__(self) -> bool:
        """Return whether the memory of Redis is not enough."""
        return self.fsync or self.replicas > 0


DEAD_SETTINGS = TopicSettings(windows=())
"""Those of topics with the events that components gave up, unless settings name the topic."""

_KNOWN_TOPICS = 20_000  # 5 MB with the longest names
JOBS = "job."
JOB_SETTINGS = TopicSettings(windows=(), latest=True)
"""Topics whose names begin with ``job.`` are lists of states, such as progress, unless settings say otherwise."""


@dataclass(frozen=True, slots=True)
class TopicRules:
    """Settings by topic or pattern: the first match applies, or else DEAD_SETTINGS, JOB_SETTINGS or ``default``."""

    rules: Sequence[tuple[str, TopicSettings]] = ()
    default: TopicSettings = field(default_factory=TopicSettings)
    _known: dict[str, TopicSettings] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Those that were found last, at most _KNOWN_TOPICS: comparing a topic with a pattern takes 1.5 us."""

    def settings_of(self, topic: str) -> TopicSettings:
        found = self._known.get(topic)
        if found is None:
            if len(self._known) >= _KNOWN_TOPICS:
                self._known.clear()
            found = self._known[topic] = self._find(topic)
        return found

    def _find(self, topic: str) -> TopicSettings:
        for pattern, settings in self.rules:
            if matches(pattern, topic):
                return settings
        if is_dead(topic):
            return DEAD_SETTINGS
        return JOB_SETTINGS if topic.startswith(JOBS) else self.default
