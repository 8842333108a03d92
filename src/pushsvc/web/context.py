"""What every resource works with."""

from __future__ import annotations

from dataclasses import dataclass

from pushsvc.broker.broker import Broker
from pushsvc.event import EventReader, Limits
from pushsvc.hub.hub import Hub
from pushsvc.settings import TopicRules
from pushsvc.system_clock import now_ms
from pushsvc.web.security import Security


@dataclass(frozen=True, slots=True)
class Context:
    broker: Broker
    hub: Hub
    rules: TopicRules
    limits: Limits
    reader: EventReader
    security: Security

    now = staticmethod(now_ms)
