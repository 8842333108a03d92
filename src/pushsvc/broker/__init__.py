"""Redis: the logs, the scripts that append to them, live wake-ups and leases."""

from pushsvc.broker.broker import Appended, Broker, Read, ReadLog
from pushsvc.broker.keys import Log
from pushsvc.broker.live import Live
from pushsvc.broker.log import Entry, EventsEntry, StatisticsEntry, WakeUp
from pushsvc.broker.publisher import Once, Receipt

__all__ = [
    "Appended",
    "Broker",
    "Entry",
    "EventsEntry",
    "Live",
    "Log",
    "Once",
    "Read",
    "ReadLog",
    "Receipt",
    "StatisticsEntry",
    "WakeUp",
]
