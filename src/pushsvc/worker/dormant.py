"""Topics that are not counted: nobody reads their statistics, and their windows can be rebuilt from the log at once."""

from collections.abc import Collection
from dataclasses import dataclass, field

from pushsvc.settings import TopicSettings

_ENTRY_BYTES = 2_000  # a longer entry is as much work as several
_LOOK_INTERVAL = 64  # appends to a dormant topic after which the size of its log is looked at


def may_rest(settings: TopicSettings, most: int) -> bool:
    """Return whether the windows of topics with these settings can be rebuilt from the last ``most`` entries of a log
    or from those that the windows cover. An event clock needs the whole log, and a sharded topic is not small."""
    return most > 0 and settings.clock == "wall" and settings.parts == 1 and settings.largest_count_window <= most


def is_short(log_bytes: int, most: int) -> bool:
    """Return whether a log is as little work as ``most`` entries."""
    return log_bytes <= most * _ENTRY_BYTES


@dataclass(slots=True)
class RecentLoad:
    """At most how many entries of a log the windows of its topic cover; a long entry counts as several.

    ``current`` are those since ``since`` (ms), ``previous`` those of the period before, which is as long as the longest
    window. If it is not known, it is infinite.
    """

    since: int
    previous: float = 0
    current: int = 0

    def add(self, entries: Collection[bytes]) -> None:
        self.current += sum(1 + len(data) // _ENTRY_BYTES for data in entries)

    def at(self, now: int, longest_window: int) -> float:
        """Return the load at ``now`` (ms)."""
        if now - self.since > longest_window:
            self.since, self.previous, self.current = now, self.current, 0
        return self.previous + self.current


@dataclass(slots=True)
class DormantTopics:
    """The dormant topics of a partition, with the number of appends since they became so."""

    _appends: dict[str, int] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self._appends

    def add(self, name: str, appends: int = 0) -> None:
        self._appends[name] = appends

    def discard(self, name: str) -> None:
        self._appends.pop(name, None)

    def keep(self, names: Collection[str]) -> None:
        """Discard all other topics."""
        self._appends = {name: appends for name, appends in self._appends.items() if name in names}

    def note(self, name: str) -> bool:
        """Note an append to a topic; return whether to see if the topic is still small."""
        self._appends[name] += 1
        return self._appends[name] % _LOOK_INTERVAL == 0

    def is_small(self, name: str, log_bytes: int, most: int) -> bool:
        """Return whether the log of a topic has at most ``most`` entries, as far as is known."""
        return self._appends[name] < most and is_short(log_bytes, most)
