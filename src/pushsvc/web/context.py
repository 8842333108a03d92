"""What every resource uses."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pushsvc.alerts.rule import AlertRule
from pushsvc.alerts.webhook import WebhookPolicy
from pushsvc.auth.access import Access
from pushsvc.broker.broker import Broker
from pushsvc.event import EventReader, Limits
from pushsvc.hub.hub import Hub
from pushsvc.settings import TopicRules
from pushsvc.system_clock import now_ms
from pushsvc.web.history import ScanLimits
from pushsvc.web.long_requests import LongRequests
from pushsvc.web.memory.budget import MemoryBudget
from pushsvc.web.rates.accounts import Accounts
from pushsvc.web.rates.streams import StreamCounts
from pushsvc.web.security import Security


@dataclass(frozen=True, slots=True)
class Context:
    """The parts of one application.

    The list of topics reads the metadata of ``described_topics`` at once, in about 3 ms; thousands would delay all
    streams. A stream of its changes begins with at most ``listed_topics``, and sends the list anew after more changes.
    ``memory`` counts what the process holds for its clients; ``accounts`` and ``streams`` what they do, if that is
    limited. Without ``access`` everybody may do everything. ``alerts`` are those of the settings, by name.
    """

    broker: Broker
    hub: Hub
    rules: TopicRules
    limits: Limits
    reader: EventReader
    security: Security
    memory: MemoryBudget
    access: Access | None = None
    accounts: Accounts | None = None
    streams: StreamCounts | None = None
    alerts: Mapping[str, AlertRule] = field(default_factory=dict)
    webhooks: WebhookPolicy = field(default_factory=WebhookPolicy)
    scan: ScanLimits = field(default_factory=ScanLimits)
    long: LongRequests = field(default_factory=LongRequests)
    described_topics: int = 100
    listed_topics: int = 100

    now = staticmethod(now_ms)
