"""The checks after a round: the log, the statistics and the subscribers' state must agree."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from http.client import HTTPException
from itertools import product
from typing import Any

from chaos.corrector import FIXED, Corrector
from chaos.producers import Producer, Request
from chaos.quiet import QUIET, QuietSubscribers
from chaos.site import BOARD, BUSY, COUNTED, COUNTED_TOPICS, LOUD, LOUDNESS, TOPICS, WINDOWS, Site
from chaos.subscribers import Subscriber
from pushsvc.alerts.rule import ALERTS_TOPIC
from pushsvc.topic import matches
from support.latest import fold
from support.oracle import expected, instant, summarize
from support.waiting import until

Event = dict[str, Any]
Logs = dict[str, list[Event]]

DEADLINE = 180.0
"""Seconds that the system may take to recover, and a subscriber to catch up: many times what they take, for a busy
machine. Beside other tests on two cores 2,500 streams of a killed process were open again after 77 seconds."""


def read_logs(site: Site, producers: Sequence[Producer]) -> Logs:
    """Return the whole log of every topic that was published to, page by page."""
    begun = {request.topic for producer in producers for request in producer.requests}
    return {topic: _read_log(site, topic) for topic in sorted(begun)}


def _read_log(site: Site, topic: str) -> list[Event]:
    events: list[Event] = []
    path = f"/v1/topics/{topic}/events?limit=10000"
    after = ""
    while True:
        page = json.loads(site.stack.get(path + after, Accept="application/json").body)
        events += page["events"]
        if page["next"] is None:
            return events
        after = f"&after={page['next']}"


def check_log(logs: Logs, producers: Sequence[Producer]) -> tuple[int, int, list[str]]:
    """Return the numbers of lost acknowledged events and of duplicated events, and all other faults."""
    faults = [f"{producer.name}: refused with {text}" for producer in producers for text in producer.refusals]
    lost = doubled = 0
    for topic, events in logs.items():
        if [event["$offset"] for event in events] != list(range(1, len(events) + 1)):
            faults.append(f"{topic}: the offsets of its log are not 1 to {len(events)}")
        times = Counter(event["mark"] for event in events)
        doubled += sum(number - 1 for number in times.values())
        for request in (r for producer in producers for r in producer.requests if r.topic == topic):
            if not request.receipt:
                faults.append(f"{topic}: no response for {request.marks[0]}")
                continue
            lost += sum(mark not in times for mark in request.marks)
            faults += _wrong_receipt(request, events)
    return lost, doubled, faults


def _wrong_receipt(request: Request, events: Sequence[Event]) -> list[str]:
    first, last = request.receipt["first_offset"], request.receipt["last_offset"]
    there = [event["mark"] for event in events[first - 1 : last]]
    return [] if there == request.marks else [f"{request.topic}: {first} to {last} are {there}, not {request.marks}"]


def check_statistics(site: Site, logs: Logs) -> list[str]:
    """Return where the server's statistics differ from those computed from the log."""
    faults = []
    for topic, events in logs.items():
        for window in [] if topic.startswith(QUIET) else WINDOWS:
            if not in_time(lambda: _caught_up(site, topic, window, events)):  # noqa: B023
                faults.append(f"{topic} {window}: not counted up to {len(events)} in time")
                continue
            frame = site.stack.stats(topic, f"?window={window}")
            right, found = expected(events, frame), summarize({(row[0], row[1]): row for row in frame["data"]})
            if right != found:
                faults.append(f"{topic} {window}: {found} instead of {right}")
    return faults


def check_latest(site: Site, logs: Logs) -> list[str]:
    """Return where the newest events that Redis keeps differ from a fold of the log."""
    if BOARD not in logs:
        return []
    found = json.loads(site.stack.get(f"/v1/topics/{BOARD}/latest", Accept="application/json").body)["events"]
    right, _ = fold(logs[BOARD])
    return [] if found == right else [f"{BOARD}: its newest events are {found} instead of {right}"]


def check_alerts(site: Site, logs: Logs) -> list[str]:
    """Return the events without an alert, alerts without their event, and transitions that are missing or doubled."""
    topic = TOPICS[0]
    loud = [event["$offset"] for event in logs.get(topic, ()) if event["rating"] >= LOUDNESS]
    in_time(lambda: not loud or f"${loud[-1]}" in {event["event"] for event in _alerts(site, LOUD)})
    found = Counter(event["event"] for event in _alerts(site, LOUD))
    # The rule is about events from the moment on at which the first aggregator knew it.
    begin = min((int(event.removeprefix("$")) for event in found), default=0)
    right = {f"${offset}" for offset in loud if offset >= begin}
    faults = [f"{LOUD}: {found} instead of one for each of {right}"] if found != Counter(right) else []
    transitions: dict[str, list[str]] = {}
    for event in _alerts(site, BUSY):
        transitions.setdefault(event["row"], []).append(event["type"])
    for row, types in transitions.items():
        if types != ["raised", "resolved"] * (len(types) // 2) + ["raised"] * (len(types) % 2):
            faults.append(f"{BUSY}: of {row} there are {types}")
    return faults


def check_components(site: Site, logs: Logs) -> tuple[int, int, int, list[str]]:
    """Return how many events a component emitted, how many events it did not count or counted again, and wrong states:
    each key's numbers its events."""
    right = Counter((topic, event["mark"]) for topic in COUNTED_TOPICS for event in logs.get(topic, ()))
    in_time(lambda: len(_read_log(site, COUNTED)) >= right.total())
    emitted = _read_log(site, COUNTED)
    found = Counter((event["source"], event["mark"]) for event in emitted)
    numbers: dict[tuple[str, str], list[int]] = {}
    for event in emitted:
        numbers.setdefault((event["source"], event["of"]), []).append(event["n"])
    faults = [
        f"{COUNTED}: the state of {name} has counted {own}"
        for name, own in numbers.items()
        if sorted(own) != list(range(1, len(own) + 1))
    ]
    # A request that nobody waits for any more may have been stored since the logs were read.
    now = Counter((topic, event["mark"]) for topic in COUNTED_TOPICS for event in _read_log(site, topic))
    if again := found - now:
        told = [(event["$offset"], event["source"], event["of"], event["n"], event["mark"]) for event in emitted]
        faults.append(f"{COUNTED}: again {[one for one in told if (one[1], one[4]) in again][:20]}, of {right.total()}")
    return found.total(), (right - found).total(), again.total(), faults


def check_corrections(site: Site, correctors: Sequence[Corrector]) -> list[str]:
    """Return where the corrected topic, or its statistics, are not those of the surviving events."""
    faults = [f"{one.name}: refused with {text}" for one in correctors for text in one.refusals]
    right = {mark: rating for one in correctors for mark, rating in one.alive.items()}
    events = _read_log(site, FIXED)
    found = {event["mark"]: event["rating"] for event in events}
    if found != right or len(events) != len(right):
        wrong = sorted(mark for mark in found.keys() | right.keys() if found.get(mark) != right.get(mark))
        faults.append(f"{FIXED}: {len(wrong)} events are wrong: {wrong[:10]}")
    for window in WINDOWS:
        if not in_time(lambda: _counts(site, window, events)):  # noqa: B023
            faults.append(f"{FIXED} {window}: its rows are not those of the surviving events")
    return faults


def _counts(site: Site, window: str, events: Sequence[Event]) -> bool:
    """Return whether a window counts the current forms of its events."""
    frame = site.stack.stats(FIXED, f"?window={window}")
    if frame.get("pending") or frame.get("stale") or frame["from"] is None:
        return False
    return summarize({(row[0], row[1]): row for row in frame["data"]}) == expected(events, frame)


def _alerts(site: Site, name: str) -> list[Event]:
    return [event for event in _read_log(site, ALERTS_TOPIC) if event["alert"] == name]


def _caught_up(site: Site, topic: str, window: str, events: Sequence[Event]) -> bool:
    """Return whether a window includes all events, except those that came too late for it."""
    frame = site.stack.stats(topic, f"?window={window}")
    start = frame["at"] - WINDOWS[window]
    return (
        frame["exists"]
        and not frame.get("stale")
        and all(instant(event["time"]) < start for event in events[frame["offset"] :])
    )


def check_subscriber(site: Site, logs: Logs, subscriber: Subscriber) -> list[str]:
    """Wait until a subscriber has caught up; return its wrong state and its violations of the contract."""
    faults = [f"{subscriber.name}: {fault}" for fault in subscriber.received.faults]
    if not subscriber.is_alive():
        faults.append(f"{subscriber.name}: has stopped")
    for topic in _of(subscriber.subscription.events, logs):
        log = {event["$offset"]: event["mark"] for event in logs[topic]}
        if not in_time(lambda: _known(subscriber, topic) == log):  # noqa: B023
            known = _known(subscriber, topic)
            wrong = sorted(offset for offset in log.keys() | known.keys() if log.get(offset) != known.get(offset))
            faults.append(f"{subscriber.name}: {topic}: knows {len(wrong)} offsets wrongly: {wrong[:10]}")
    for topic, window in product(_of(subscriber.subscription.statistics, logs), subscriber.subscription.windows):
        if not in_time(lambda: _table(subscriber, topic, window) == _rows(site, topic, window)):  # noqa: B023
            faults.append(f"{subscriber.name}: {topic} {window}: its table is not the server's")
    board = subscriber.subscription.latest
    if board in logs and not in_time(lambda: _board(subscriber, board) == fold(logs[board])[0]):
        faults.append(f"{subscriber.name}: {board}: its newest events are {_board(subscriber, board)}")
    with subscriber.lock:
        samples = [(place, sample) for place, found in subscriber.received.samples.items() for sample in found]
    for (topic, window), (frame, found) in samples:
        if found != expected(logs[topic], frame):
            faults.append(f"{subscriber.name}: {topic} {window}: the frame at {frame['offset']} is not exact")
    return faults


def check_quiet(logs: Logs, subscribers: QuietSubscribers) -> list[str]:
    """Wait until the subscribers of quiet topics have caught up; return what is wrong."""
    published = {
        topic: {event["$offset"]: event["mark"] for event in logs[topic]} for topic in logs if topic.startswith(QUIET)
    }

    def behind() -> list[str]:
        return [topic for topic, log in published.items() if subscribers.known(topic) != log]

    in_time(lambda: not behind() and subscribers.all_open())
    faults = [f"{topic}: its subscriber knows {subscribers.known(topic)}" for topic in behind()[:10]]
    faults += [] if subscribers.is_alive() and subscribers.all_open() else ["quiet streams are not open again in time"]
    return faults + subscribers.faults()


def _of(patterns: Sequence[str], topics: Iterable[str]) -> list[str]:
    return [topic for topic in topics if any(matches(pattern, topic) for pattern in patterns)]


def in_time(look: Callable[[], bool]) -> bool:
    """Return whether a condition becomes true in time."""
    try:
        return bool(until(look, seconds=DEADLINE))
    except AssertionError:
        return False


def _known(subscriber: Subscriber, topic: str) -> dict[int, str]:
    with subscriber.lock:
        return dict(subscriber.received.events.get(topic, {}))


def _table(subscriber: Subscriber, topic: str, window: str) -> Mapping[Any, Any] | None:
    with subscriber.lock:
        table = subscriber.received.tables.get((topic, window))
        return None if table is None else table.live()


def _board(subscriber: Subscriber, topic: str) -> list[Event]:
    with subscriber.lock:
        return [dict(event) for event in subscriber.received.boards[topic].events.values()]


def _rows(site: Site, topic: str, window: str) -> Mapping[Any, Any]:
    return {(row[0], row[1]): row for row in site.stack.stats(topic, f"?window={window}")["data"]}


def not_recovered(site: Site) -> list[str]:
    """Return what keeps the site from serving as before the faults."""
    site.tend()
    try:
        ready = site.stack.get("/readyz")
        stale = "stale" in site.stack.stats(TOPICS[0])
    except (OSError, HTTPException, AssertionError) as error:
        return [f"no answer: {error!r}"]
    return [f"not ready: {ready.body!r}"] * (ready.status != 200) + ["statistics are stale"] * stale
