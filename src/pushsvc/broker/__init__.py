"""Redis: the logs, the scripts that append to them, live wake-ups and leases."""

from pushsvc.broker.broker import Appended, Broker, Read, ReadLog, Receipt
from pushsvc.broker.keys import Log
from pushsvc.broker.live import Live
from pushsvc.broker.log import Entry, EventsEntry, StatisticsEntry

__all__ = [
    "Appended",
    "Broker",
    "Entry",
    "EventsEntry",
    "Live",
    "Log",
    "Read",
    "ReadLog",
    "Receipt",
    "StatisticsEntry",
]
