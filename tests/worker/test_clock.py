"""An aggregator whose machine sets its clock."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from pushsvc.broker.broker import Broker
from pushsvc.event import Event
from pushsvc.settings import TopicRules, TopicSettings, Window
from pushsvc.system_clock import now_ms
from support.owner import Owner
from support.waiting import until

HOUR = 3_600_000


@pytest.mark.parametrize("step", [-HOUR, HOUR])
def test_windows_move_on_without_events_after_the_clock_was_set(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """They stood still for as long as the clock was set back: nothing was read, so the time of Redis was not known."""
    broker.check_layout()
    broker.open_partitions()
    rules = TopicRules(default=TopicSettings(windows=(Window.parse("10s"),)))
    owner = Owner(broker, ["orders"], rules)
    owner.publish_all("orders", [Event(time=now_ms() - 8_500, data={"n": 1})])
    owner.step()
    assert owner.totals("orders", "10s") == (1, 1)
    set_clock = SimpleNamespace(time=lambda: time.time() + step / 1_000, monotonic=time.monotonic)
    monkeypatch.setattr("pushsvc.system_clock.time", set_clock)
    owner.worker.poll()
    until(lambda: owner.worker.step() or owner.totals("orders", "10s") == (1, 0))
    assert abs(owner.partition.now - broker.time()) < HOUR / 2
