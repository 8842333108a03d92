"""A topic's log, and the bytes that its metadata count."""

from __future__ import annotations

from dataclasses import dataclass

from pushsvc.broker.keys import Log
from pushsvc.event import Event
from pushsvc.settings import FUTURE_ALLOWANCE, TopicSettings

LOG = Log("orders.eu")


PARTITION = LOG.partition


@dataclass(frozen=True, slots=True)
class Windowless(TopicSettings):
    """Settings whose windows need an entry for ``kept`` ms only."""

    kept: int = -1

    @property
    def longest_window(self) -> int:
        return self.kept - 2 * FUTURE_ALLOWANCE


def texts(count, size=10):
    return [Event(data={"t": "x" * size}) for _ in range(count)]


def size_of(events):
    return len(b"\n".join(event.encode() for event in events))


def entries(broker, log=LOG):
    read = broker.read(PARTITION, {log: 0}, budget=100_000_000)
    return read.logs[log].entries


def held(broker):
    """Return the bytes that the metadata count; check the metadata against the log."""
    [metadata] = broker.metadata([LOG])
    if not metadata:
        return 0
    kept = entries(broker)
    assert int(metadata.get("bytes", 0)) == sum(len(entry.data) for entry in kept)
    if kept:
        assert int(metadata["first"]) == kept[0].first
        assert [entry.first for entry in kept[1:]] == [entry.last + 1 for entry in kept[:-1]]
    else:
        assert int(metadata["first"]) == int(metadata["last"]) + 1
    return int(metadata.get("bytes", 0))
