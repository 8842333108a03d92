"""Alerts against a plain loop over the published events, under random publishes, takeovers and failures to send."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest

from pushsvc.alerts.rule import ALERTS_TOPIC, read_rule
from pushsvc.broker.broker import Broker
from pushsvc.broker.keys import Log
from pushsvc.errors import BrokerUnavailable
from pushsvc.event import Event
from pushsvc.settings import TopicRules, TopicSettings
from pushsvc.stats.window import Window
from support.effort import rounds
from support.owner import Owner

WHOLE = TopicRules(default=TopicSettings(windows=(Window.parse("1h"),), cadence=0))
IN_PARTS = TopicRules((("sales", TopicSettings(windows=(Window.parse("1h"),), cadence=0, parts=2)),))
KEYS = ("a", "b", "c", "d")
STEPS = 40
FEW_STEPS = 15  # each takeover starts processes

Told = list[tuple[str, str | None, float | None]]


class PlainAlert:
    """``mean(n, 1h) > 5 and count(1h) >= 3`` until ``mean(n, 1h) < 4``, in ifs."""

    def __init__(self) -> None:
        self.values: list[int] = []
        self.raised = False

    def look(self) -> str | None:
        if not self.values:
            return None
        mean = sum(self.values) / len(self.values)
        before, met = self.raised, mean > 5 and len(self.values) >= 3
        self.raised = (met or not mean < 4) if before else met
        return None if self.raised is before else "raised" if self.raised else "resolved"


class Site:
    """An owner that is moved step by step, and may be replaced."""

    def __init__(self, broker: Broker, rules: TopicRules, monkeypatch: pytest.MonkeyPatch) -> None:
        self._broker = broker
        self._rules = rules
        self._monkeypatch = monkeypatch
        self._owner = self._new_owner()

    def end(self) -> None:
        """End the processes of parts, as they end with that of their owner."""
        self._owner.partition.end()

    def take_over(self) -> None:
        self.end()
        self._owner = self._new_owner()

    def _new_owner(self) -> Owner:
        owner = Owner(self._broker, ["sales"], self._rules, unwanted=True)
        owner.worker.alerts.refresh(owner.worker.partitions.values())
        return owner

    def publish(self, events: list[Event]) -> None:
        self._owner.publish_all("sales", events)

    def work(self, *, fails: str | None = None) -> None:
        """Evaluate and send. ``fails``: the process is killed before it has published, or before it has marked."""
        for partition in self._owner.worker.partitions.values():
            if partition.alerts is not None:
                partition.alerts.turns.clear()
                partition.alerts.wake_at = 0
        self._owner.step(2)
        with self._monkeypatch.context() as patch:
            if fails == "publish":
                patch.setattr(self._owner.worker.alert_sender, "_publish", _fail)
            elif fails == "mark":
                patch.setattr(self._broker.alerts, "sent", _fail)
            try:
                self._owner.worker.alert_sender.send()
            except BrokerUnavailable:
                self.take_over()

    def told(self, name: str) -> Told:
        of = Log(ALERTS_TOPIC)
        entries = self._broker.read(of.partition, {of: 0}, budget=100_000_000).logs[of].entries
        events = [event for entry in entries for event in entry.events if event.key == name]
        return [(event.type, event.data["row"], event.data["value"]) for event in events]


def _fail(*_: object) -> None:
    raise BrokerUnavailable("killed")


@pytest.mark.parametrize(
    ("rules", "steps", "seed"),
    [*((WHOLE, STEPS, seed) for seed in range(rounds(20))), *((IN_PARTS, FEW_STEPS, seed) for seed in range(2))],
)
def test_alerts_are_those_of_a_plain_loop(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, rules: TopicRules, steps: int, seed: int
) -> None:
    chance = random.Random(seed)
    broker.check_layout()
    table = {"topic": "sales", "when": "mean(n, 1h) > 5 and count(1h) >= 3", "until": "mean(n, 1h) < 4"}
    broker.alerts.define(read_rule("each", {**table, "by": "key"}))
    broker.alerts.define(read_rule("all", table))
    broker.alerts.define(read_rule("high", {"topic": "sales", "when": "event.n >= 9"}))
    site = Site(broker, rules, monkeypatch)
    site.work()
    plain: defaultdict[str | None, PlainAlert] = defaultdict(PlainAlert)
    right: dict[str, Told] = {"each": [], "all": [], "high": []}
    for _ in range(steps):
        events = [
            Event(key=chance.choice(KEYS), data={"n": chance.randrange(11)}) for _ in range(chance.randrange(4))
        ]  # fmt: skip
        if events:
            site.publish(events)
        for event in events:
            plain[event.key].values.append(event.data["n"])
            plain[None].values.append(event.data["n"])
            if event.data["n"] >= 9:
                right["high"].append(("raised", event.key, event.data["n"]))
        if chance.random() < 0.2:
            site.take_over()
        site.work(fails=chance.choice([None, None, None, "publish", "mark"]))
        for key in (*KEYS, None):
            if kind := plain[key].look():
                values = plain[key].values
                right["all" if key is None else "each"].append((kind, key, sum(values) / len(values)))
    site.work()
    site.work()
    assert site.told("all") == right["all"]
    assert site.told("high") == right["high"]
    for key in KEYS:
        assert [one for one in site.told("each") if one[1] == key] == [one for one in right["each"] if one[1] == key]
    assert len(site.told("each")) == len(right["each"]) > 0
    site.end()
