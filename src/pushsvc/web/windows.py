"""Reads the windows of one answer from their statistics logs, once their frames are current."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from time import monotonic

import gevent

from pushsvc.broker.broker import Broker
from pushsvc.broker.keys import Log
from pushsvc.broker.log import FROM_SNAPSHOT
from pushsvc.errors import StatisticsUnavailable
from pushsvc.hub.window_state import WindowState

# Seconds: how long a request waits for the first frame, and how often it reminds the aggregator.
_LONGEST_WAIT, _REMIND_INTERVAL = 4.0, 0.5
# It asks Redis at growing intervals: many requests may wait for an aggregator that is away.
_FIRST_POLL, _LONGEST_POLL = 0.01, 0.25


@dataclass(frozen=True, slots=True)
class CurrentWindow:
    """A window as its log holds it. It is ``stale`` if no aggregator writes what is missing."""

    state: WindowState
    epoch: int
    stale: bool


def read_windows(broker: Broker, logs: Sequence[Log]) -> list[CurrentWindow]:
    """Read whole statistics logs, once an aggregator has written frames that include all that it knows.

    Raises StatisticsUnavailable if a topic with events has no frames, and as ``Broker.read``.
    """
    stale = _wait_current(broker, logs)
    return [_read_window(broker, log, stale=log in stale) for log in logs]


def _wait_current(broker: Broker, logs: Sequence[Log]) -> Collection[Log]:
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


def _read_window(broker: Broker, of: Log, *, stale: bool) -> CurrentWindow:
    state, after = WindowState(of), FROM_SNAPSHOT
    while True:
        read = broker.read(of.partition, {of: after})
        logged = read.logs[of]
        for entry in logged.entries:
            state.apply(entry)
            after = entry.last
        if not logged.more:
            break
    if stale and not state.exists:
        raise StatisticsUnavailable(f"no aggregator has counted the events of {of.topic!r} yet")
    return CurrentWindow(state, read.epoch, stale or not read.owned)
