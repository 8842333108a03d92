"""What every resource uses."""

from dataclasses import dataclass, field

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
    limited. Without ``access`` everybody may do everything.
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
    scan: ScanLimits = field(default_factory=ScanLimits)
    long: LongRequests = field(default_factory=LongRequests)
    described_topics: int = 100
    listed_topics: int = 100

    now = staticmethod(now_ms)
