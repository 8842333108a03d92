"""Reads the windows of one answer from their statistics logs, once their frames are current."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from time import monotonic

import gevent

from pushsvc.broker.broker import Broker
from pushsvc.broker.keys import Log
from pushsvc.broker.log import FROM_SNAPSHOT, PartitionRead, StatisticsEntry
from pushsvc.errors import PushError, StatisticsUnavailable
from pushsvc.pause import Pause
from pushsvc.web.stored_window import StoredWindow

# Seconds: how long a request waits for the first frame, and how often it reminds the aggregator.
_LONGEST_WAIT, _REMIND_INTERVAL = 4.0, 0.5
# It asks Redis at growing intervals: many requests may wait for an aggregator that is away.
_FIRST_POLL, _LONGEST_POLL = 0.01, 0.25
# Seconds: how long a request waits until an event is counted, and the first pause between two looks.
_COUNTED_WAIT, _COUNTED_POLL = 5.0, 0.02


@dataclass(frozen=True, slots=True)
class ReadWindow:
    """A window as its log holds it, whose rows are decoded when they are needed: it may be large. It is ``stale`` if
    no aggregator writes what is missing."""

    stored: StoredWindow
    epoch: int
    stale: bool


def stored_bytes(broker: Broker, logs: Sequence[Log]) -> int | None:
    """Return about how many bytes logs have; None if Redis does not tell (not each provider has the command)."""
    with suppress(PushError):
        return broker.memory_of(logs)
    return None


def read_stored_windows(
    broker: Broker, logs: Sequence[Log], stale: Collection[Log], pause: Pause
) -> Iterator[ReadWindow]:
    """Read whole statistics logs one after the other, once ``wait_current`` has returned the ``stale`` ones.

    Raises StatisticsUnavailable if a topic with events has no frames, and as ``Broker.read``.
    """
    for log in logs:
        stored = StoredWindow(log)
        read = _read_window(broker, log, partial(stored.apply, pause=pause))
        yield ReadWindow(stored, read.epoch, _is_stale(read, log, late=log in stale, exists=stored.exists))


def wait_current(broker: Broker, logs: Sequence[Log]) -> Collection[Log]:
    """Ask for the frames of windows, and wait until they are current; return those whose frames are not in time."""
    begun = reminded = monotonic()
    interval = _FIRST_POLL
    answers = broker.demand.ask(logs)
    while waiting := [answer.log for answer in answers if answer.pending]:
        now = monotonic()
        if now > begun + _LONGEST_WAIT:
            break
        gevent.sleep(interval)
        interval = min(2 * interval, _LONGEST_POLL)
        remind = now > reminded + _REMIND_INTERVAL
        reminded = now if remind else reminded
        answers = [answer for answer in answers if answer.log not in waiting]
        answers += broker.demand.ask(waiting, remind=remind)
    return {answer.log for answer in answers if not answer.current}


def wait_until_counted(broker: Broker, logs: Sequence[Log], offset: int, wait: float = _COUNTED_WAIT) -> None:
    """Wait until windows include an offset, at most ``wait`` seconds.

    The wait is at most an eighth longer than necessary. Looks at a constant interval would cost a request of 100 bytes
    250 round trips if the offset never comes.
    """
    broker.demand.ask(logs)
    begun = monotonic()
    while (waited := monotonic() - begun) < wait:
        if all(int(stored.get("source", 0)) >= offset for stored in broker.metadata(logs)):
            return
        gevent.sleep(max(_COUNTED_POLL, waited / 8))


def _read_window(broker: Broker, log: Log, apply: Callable[[StatisticsEntry], None]) -> PartitionRead:
    """Apply the last snapshot of a log and the updates after it; return the last read."""
    after = FROM_SNAPSHOT
    while True:
        read = broker.read(log.partition, {log: after})
        for entry in read.logs[log].entries:
            apply(entry)
            after = entry.last
        if not read.logs[log].more:
            return read


def _is_stale(read: PartitionRead, log: Log, *, late: bool, exists: bool) -> bool:
    """Return whether no aggregator writes what is missing. Raise StatisticsUnavailable if there is nothing."""
    if late and not exists:
        raise StatisticsUnavailable(f"no aggregator has counted the events of {log.topic!r} yet")
    return late or not read.owned
