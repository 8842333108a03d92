"""What becomes of an event whose handler failed: another attempt later, or the topic of dead events."""

from __future__ import annotations

from typing import Any

import orjson

from pushsvc.components.messages import Emitted, GroupOptions, Parked, Timer
from pushsvc.topic import DEAD, MAX_LENGTH

RETRIES, BACKOFF, TIMEOUT = 5, 1.0, 60.0  # by default; the pauses of 5 retries are 31 seconds together
MAX_STATES = 1_000_000  # by default: keys of a topic with state, of a group
_LONGEST_PAUSE = 300.0  # seconds
_REASON, _TRACEBACK = 500, 8_000  # characters


def next_attempt(attempts: int, options: GroupOptions, now: int) -> int | None:
    """Return when (ms) to try again after so many failed attempts; None: never."""
    if attempts > options.retries:
        return None
    return now + int(1_000 * min(options.backoff * 2 ** (attempts - 1), _LONGEST_PAUSE))


def after_failure(event: Parked, options: GroupOptions, now: int, reason: str, traceback: str = "") -> Parked | Emitted:
    """Return the event with one more attempt, or what goes to the dead events."""
    attempts = event.attempts + 1
    failed = Parked(
        event.topic, event.offset, event.arrival, event.line, attempts, 0, reason[:_REASON], traceback[-_TRACEBACK:],
        event.key,
    )  # fmt: skip
    due = next_attempt(attempts, options, now)
    if due is None:
        return _dead(failed, options.name, {"event": orjson.loads(event.line)})
    failed.due = due
    return failed


def after_timer_failure(timer: Timer, options: GroupOptions, now: int, reason: str, traceback: str) -> Timer | Emitted:
    """Return the timer with one more attempt, or what goes to the dead events."""
    attempts = timer.attempts + 1
    due = next_attempt(attempts, options, now)
    if due is not None:
        return Timer(timer.topic, timer.key, timer.name, due, timer.function, timer.data, attempts)
    failed = Parked(timer.topic, 0, now, b"", attempts, 0, reason[:_REASON], traceback[-_TRACEBACK:], timer.key)
    called = {"name": timer.name, "function": timer.function, "data": timer.data}
    return _dead(failed, options.name, {"timer": called})


def after_refusal(topic: str, line: bytes, group: str, now: int, reason: str) -> Emitted:
    """Return the dead event for an emitted event, in its stored form, that the log of ``topic`` refuses."""
    event = orjson.loads(line)
    failed = Parked(topic, 0, now, b"", 1, 0, reason[:_REASON], key=event.get("key"))
    return _dead(failed, group, {"emitted": event})


def dead_topic(topic: str) -> str:
    """Return the name of the topic with the dead events of a topic."""
    return topic[: MAX_LENGTH - len(DEAD)].rstrip(".") + DEAD


def _dead(failed: Parked, group: str, what: dict[str, Any]) -> Emitted:
    flat: dict[str, Any] = {"type": "dead"}
    if failed.key is not None:
        flat["key"] = failed.key
    flat |= {
        "topic": failed.topic, "offset": failed.offset, "arrival": failed.arrival, "group": group,
        "attempts": failed.attempts, "reason": failed.reason, "traceback": failed.traceback,
    }  # fmt: skip
    return Emitted(dead_topic(failed.topic), orjson.dumps(flat | what))
