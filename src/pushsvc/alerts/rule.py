"""A rule: what an alert watches, as it is written, and checked against the settings of its topic."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pushsvc.alerts.condition import TRUE, Absent, EventTest, Node, Statistic, leaves, truths
from pushsvc.alerts.grammar import InvalidCondition, parse
from pushsvc.errors import InvalidTopic
from pushsvc.settings import TopicSettings
from pushsvc.stats.statistic_names import percent_of
from pushsvc.topic import check_topic

ALERTS_TOPIC = "alerts"
"""The topic of raised and resolved alerts. Nobody else publishes there."""

MOST_ALERTS = 1_000
"""Most alerts of one installation, by settings and requests together."""

LONGEST_NAME = 100
LONGEST_URL = 1_000
LONGEST_HOLD = 86_400_000
"""Milliseconds that a condition may have to hold, at most."""

_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\Z", re.ASCII)
_HOLD = re.compile(r"([0-9]{1,9})([smhd])\Z", re.ASCII)
_UNITS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
MEMBERS = ("topic", "when", "until", "for", "by", "webhook")


class InvalidAlert(ValueError):
    """A member of an alert is invalid. ``fault`` is the name of the error in a condition, else None."""

    def __init__(self, member: str, detail: str, fault: str | None = None) -> None:
        super().__init__(detail)
        self.member = member
        self.fault = fault


@dataclass(frozen=True, slots=True)
class AlertRule:
    """An alert. ``hold`` is how long ``when`` must hold, in ms. With ``until``, it resolves when that holds and
    ``when`` does not; else as soon as ``when`` does not hold. With ``by`` it has a state per key of that grouping.

    A rule about events (``is_of_events``) has no state: each event that meets it raises it once. One that was
    defined by a request looks at those ``after`` an offset, where the log ended.
    """

    name: str
    topic: str
    when: str
    until: str | None = None
    hold: int = 0
    by: str | None = None
    webhook: str | None = None
    after: int | None = None
    condition: Node = field(init=False, compare=False, repr=False)
    release: Node | None = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "condition", _parsed("when", self.when))
        object.__setattr__(self, "release", None if self.until is None else _parsed("until", self.until))

    @property
    def is_of_events(self) -> bool:
        return isinstance(next(leaves(self.condition)), EventTest)

    @property
    def statistics(self) -> list[Statistic]:
        """The statistics of both conditions; the first one is the alert's value."""
        trees = (self.condition,) if self.release is None else (self.condition, self.release)
        return [leaf for tree in trees for leaf in leaves(tree) if isinstance(leaf, Statistic)]

    @property
    def fires_when_absent(self) -> bool:
        """Return whether a key without events raises the alert."""
        return not self.is_of_events and bool(truths(self.condition, Absent())[0] == TRUE)

    def is_same_condition(self, other: AlertRule) -> bool:
        """Return whether the states of one rule are those of the other: only hold and webhook may differ."""
        return (self.topic, self.when, self.until, self.by) == (other.topic, other.when, other.until, other.by)

    def public(self) -> dict[str, Any]:
        """Return the rule as ``read_rule`` reads it, with its name."""
        return {
            "name": self.name, "topic": self.topic, "when": self.when, "until": self.until,
            "for": hold_text(self.hold) if self.hold else None, "by": self.by, "webhook": self.webhook,
        }  # fmt: skip


def read_rule(name: Any, table: Mapping[str, Any]) -> AlertRule:
    """Return the alert of a table of the settings, or of a JSON object, in which None is as absent.

    Raise InvalidAlert.
    """
    if not isinstance(name, str) or len(name) > LONGEST_NAME or not _NAME.match(name):
        raise InvalidAlert("name", f"1 to {LONGEST_NAME} of A-Z a-z 0-9 _ - in dot-separated segments are expected")
    values = _texts(table)
    rule = AlertRule(
        name, values["topic"], values["when"], values.get("until"), _hold(values.get("for")), values.get("by"),
        values.get("webhook"),
    )  # fmt: skip
    if rule.is_of_events:
        for member in ("until", "for", "by"):
            if member in values:
                raise InvalidAlert(member, "a rule about events has none: each event that meets it raises it once")
    elif rule.release is not None and not isinstance(next(leaves(rule.release)), Statistic):
        raise InvalidAlert("until", "when is about statistics, so until must be too")
    return rule


def check_rule(rule: AlertRule, settings: TopicSettings) -> None:
    """Raise InvalidAlert if the topic lacks a grouping, window, field or statistic that the rule needs."""
    if rule.is_of_events:
        return
    if rule.by is not None and rule.by != "key" and rule.by not in settings.key:
        raise InvalidAlert("by", f"{rule.topic} has no grouping {rule.by!r}; it has {', '.join(settings.key)}")
    trees: list[tuple[Literal["when", "until"], Node | None]] = [("when", rule.condition), ("until", rule.release)]
    for member, tree in trees:
        for leaf in () if tree is None else leaves(tree):
            if isinstance(leaf, Statistic) and (found := _missing(leaf, rule, settings)):
                fault, detail = found
                raise InvalidAlert(member, str(InvalidCondition(fault, leaf.position, detail)), fault)


def _missing(statistic: Statistic, rule: AlertRule, settings: TopicSettings) -> tuple[str, str] | None:
    """Return a fault and its description if the topic lacks something that a statistic needs, else None."""
    window = settings.window(statistic.window)
    if window is None:
        names = ", ".join(window.name for window in settings.windows) or "none"
        return "unknown-window", f"{rule.topic} has no window {statistic.window!r}; its windows: {names}"
    if window.is_lifetime:
        return "unknown-window", f"the window {window.name!r} cannot raise alerts"
    if (percent_of(statistic.name) or statistic.name == "distinct") and statistic.name not in settings.statistics:
        names = ", ".join(settings.statistics) or "none"
        return "unknown-statistic", f"{rule.topic} does not count {statistic.name}; its further statistics: {names}"
    if statistic.name == "distinct" and statistic.field not in settings.values:
        names = ", ".join(settings.values) or "none"
        return "unknown-field", f"{rule.topic} keeps no values of {statistic.field!r}; it keeps those of: {names}"
    if statistic.name == "rate" and (statistic.field is not None or window.events):
        return "unknown-statistic", "rate is that of events in a window of time, as in rate(5m)"
    return None


def _texts(table: Mapping[str, Any]) -> dict[str, str]:
    """Return the members of an alert that are given, each in its bounds."""
    for member in table:
        if member not in MEMBERS:
            raise InvalidAlert(str(member)[:100], f"there is no such member; they are {', '.join(MEMBERS)}")
    values = {member: value for member, value in table.items() if value is not None}
    for member, value in values.items():
        if not isinstance(value, str) or not value:
            raise InvalidAlert(member, "must be text")
    for member in ("topic", "when"):
        if member not in values:
            raise InvalidAlert(member, "is missing")
    try:
        check_topic(values["topic"])
    except InvalidTopic as error:
        raise InvalidAlert("topic", error.detail) from None
    if values["topic"] == ALERTS_TOPIC:
        raise InvalidAlert("topic", "an alert cannot watch the topic of the alerts")
    if len(values.get("webhook", "")) > LONGEST_URL:
        raise InvalidAlert("webhook", f"a URL of at most {LONGEST_URL} characters is expected")
    if len(values.get("by", "")) > 200:
        raise InvalidAlert("by", "a grouping of at most 200 characters is expected")
    return values


def hold_text(hold: int) -> str:
    """Return milliseconds as ``2m``."""
    unit = next(unit for unit in ("d", "h", "m", "s") if hold % _UNITS[unit] == 0)
    return f"{hold // _UNITS[unit]}{unit}"


def _hold(text: str | None) -> int:
    if text is None:
        return 0
    found = _HOLD.match(text)
    if not found or not 0 < (hold := int(found[1]) * _UNITS[found[2]]) <= LONGEST_HOLD:
        raise InvalidAlert("for", f"{text[:50]!r} is not a time from 1s to 24h, such as 90s or 2m")
    return hold


def _parsed(member: str, text: str) -> Node:
    try:
        return parse(text)
    except InvalidCondition as error:
        raise InvalidAlert(member, str(error), error.fault) from None
