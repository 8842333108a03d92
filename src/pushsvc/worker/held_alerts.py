"""What the owner of a partition knows of its alerts."""

from __future__ import annotations

from dataclasses import dataclass, field

from pushsvc.alerts.rule import AlertRule
from pushsvc.alerts.states import AlertStates
from pushsvc.broker.alerts import AlertEvent, StoredAlerts, StoredState


@dataclass(slots=True)
class Turn:
    """When a rule is evaluated next (ms): at ``earliest`` if its topic has new entries, else at ``latest``."""

    changed: bool = True
    earliest: int = 0
    latest: int = 0

    @property
    def at(self) -> int:
        return min(self.earliest, self.latest) if self.changed else self.latest


@dataclass(slots=True)
class HeldAlerts:
    """The states of a partition's alerts as Redis has them. ``unclaimed`` are rows that no rule has taken yet."""

    unclaimed: dict[str, dict[str | None, StoredState]]
    positions: dict[str, int]  # through which the log was scanned for a rule about events
    outbox: dict[str, AlertEvent]
    states: dict[str, AlertStates] = field(default_factory=dict)
    turns: dict[str, Turn] = field(default_factory=dict)
    stored_positions: dict[str, tuple[int, int]] = field(default_factory=dict)  # in Redis, and since when (ms)
    number: int = 0  # of the last event
    paused_until: int = 0  # ms
    wake_at: int | None = 0  # ms; None: not before the rules change

    @classmethod
    def of(cls, stored: StoredAlerts) -> HeldAlerts:
        found = cls(stored.states, stored.positions, stored.outbox)
        found.stored_positions = {name: (position, 0) for name, position in stored.positions.items()}
        found.number = max((event.number for event in stored.outbox.values()), default=0)
        return found

    def position(self, rule: AlertRule) -> int | None:
        """Return the offset after which a rule about events looks on; None if that is not known yet."""
        # A position before the rule's beginning is that of an earlier rule of this name.
        known = [one for one in (self.positions.get(rule.name), rule.after) if one is not None]
        return max(known, default=None)

    def next_number(self, now: int) -> int:
        """Return the number of an event at ``now`` (ms): no other life of an alert or row has it."""
        self.number = max(self.number + 1, now)
        return self.number
