"""What every resource works with."""

from __future__ import annotations

import time
from dataclasses import dataclass

from pushsvc.broker.broker import Broker
from pushsvc.event import Limits, Reader
from pushsvc.hub.hub import Hub
from pushsvc.settings import TopicRules
from pushsvc.web.security import Security


@dataclass(frozen=True, slots=True)
class Context:
    broker: Broker
    hub: Hub
    rules: TopicRules
    limits: Limits
    reader: Reader
    security: Security

    @staticmethod
    def now() -> int:
        """Return this machine's time in ms."""
        return int(time.time() * 1000)
