"""A run: rounds of faults during publishing, each followed by a verdict."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from chaos import quiet, verdict
from chaos.corrector import Corrector
from chaos.faults import Faults
from chaos.producers import Producer
from chaos.quiet import QuietSubscribers
from chaos.site import BOARD, TOPICS, WINDOWS, Site
from chaos.subscribers import Subscriber, Subscription
from support.waiting import until

PRODUCERS = 8
NEW_TOPICS = 2
"""Topics that each producer creates in a round."""

# A stream of events has no position before its first event, so all streams start at the earliest event.
STREAMS = {
    "events of one": Subscription("/v1/topics/chaos.a/events?last_event_id=earliest", ("chaos.a",)),
    "events of another": Subscription("/v1/topics/order/events?last_event_id=earliest", ("order",)),
    "statistics of one": Subscription("/v1/topics/chaos.a/stats?window=*", (), ("chaos.a",), tuple(WINDOWS)),
    "statistics of another": Subscription("/v1/topics/chaos.b/stats", (), ("chaos.b",), ("10s",)),
    "newest events of one": Subscription(f"/v1/topics/{BOARD}/latest", latest=BOARD),
    "a pattern": Subscription("/v1/stream?events=chaos.>&events=order&last_event_id=earliest", ("chaos.>", "order")),
    "all together": Subscription(
        "/v1/stream?events=chaos.*&stats=chaos.>&stats=order&window=10s&window=1m&last_event_id=earliest",
        ("chaos.*",), ("chaos.>", "order"), ("10s", "1m"),
    ),
}  # fmt: skip
EACH = 2

_GROWTH = 64
"""Descriptors that a process may open beyond those of its start: its pool of connections to Redis (32), connections to
publish and to subscribe, its streams, and some short-lived ones."""


@dataclass
class Report:
    """The numbers of a run, and every failed check."""

    seed: int
    ack: str = ""
    seconds: float = 0.0
    rounds: int = 0
    topics: int = 0
    events: int = 0
    requests: int = 0
    attempts: int = 0
    lost: int = 0
    doubled: int = 0
    effects: int = 0
    effects_lost: int = 0
    effects_doubled: int = 0
    corrections: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    resets: Counter[str] = field(default_factory=Counter)
    subscribers: int = 0
    connects: int = 0
    messages: int = 0
    gaps: dict[str, float] = field(default_factory=dict)
    descriptors: tuple[int, int] = 0, 0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        faults = ", ".join(f"{name} {number}" for name, number in sorted(self.kills.items()))
        resets = ", ".join(f"{reason} {number}" for reason, number in sorted(self.resets.items())) or "none"
        gaps = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.gaps.items())
        return "\n".join(
            [
                f"seed {self.seed}, --ack {self.ack}, {self.rounds} rounds, {self.seconds:.0f} s",
                f"events: {self.events} of {self.topics} topics",
                f"requests: {self.requests}, which took {self.attempts} attempts",
                f"faults: {sum(self.kills.values())} ({faults})",
                f"acknowledged events lost: {self.lost}, events doubled: {self.doubled}",
                f"events that a component counted: {self.effects}, "
                f"lost: {self.effects_lost}, doubled: {self.effects_doubled}",
                f"corrected topic: {dict(self.corrections)}",
                f"subscribers: {self.subscribers}, connects: {self.connects}, messages: {self.messages}",
                f"resets: {resets}",
                f"longest gaps: {gaps}",
                f"descriptors of a process: at most {self.descriptors[0]} in the beginning, {self.descriptors[1]} now",
                *(f"WRONG: {text}" for text in self.wrong),
            ]
        )


def run(
    folder: Path,
    seed: int,
    *,
    seconds: float,
    pause: float,
    on_round: Callable[[Report], None],
    rounds: int = 1,
    replicated: bool = False,
    quiet_topics: int = 0,
) -> Report:
    """Run ``rounds`` of faults, ``seconds`` each, with at most ``pause`` seconds between two; return the report.

    ``on_round`` takes the report after each round. If ``replicated``, a replica takes over when Redis is killed. There
    are ``quiet_topics`` with a subscriber each, and without windows.
    """
    report, begun = Report(seed), time.monotonic()
    with _site(folder, random.Random(f"site {seed}"), replicated, quiet_topics) as site:
        report.ack = site.servers.ack
        report.descriptors = (max(site.descriptors().values()), 0)
        faults = Faults(site, random.Random(f"faults {seed}"), pause)
        subscribers = [
            Subscriber(f"{name} {number}", site.to_web.port, subscription)
            for name, subscription in STREAMS.items()
            for number in range(EACH)
        ]
        _start(subscribers)
        names = quiet.topics(quiet_topics)
        others = quiet.QuietSubscribers(site.stack.port, names)
        others.start()
        until(others.all_open)
        producers: list[Producer] = []
        correctors: list[Corrector] = []
        while report.rounds < rounds and not report.wrong:
            report.rounds += 1
            fresh = _producers(report, site)
            fresh += quiet.producers(report.rounds, site.to_web.port, names, seed) if names else []
            producers += fresh
            for subscriber in subscribers:
                subscriber.forget_silence()  # the verdict before this round was no gap
            chance = random.Random(f"corrector {seed} {report.rounds}")
            correctors.append(Corrector(f"corrector-{report.rounds}", site.to_web.port, chance))
            for thread in (*fresh, correctors[-1]):
                thread.start()
            faults.deal_for(seconds)
            if waiting := _unsettled(site, [*fresh, correctors[-1]], subscribers):
                report.wrong += waiting
            else:
                _judge(report, site, producers, correctors, subscribers, others)
            _count(report, faults, producers, subscribers, others)
            report.seconds = time.monotonic() - begun
            on_round(report)
        for subscriber in (*subscribers, others):
            subscriber.stop()
        for subscriber in (*subscribers, others):
            subscriber.join()
        site.close()
        if left := site.processes():
            report.wrong.append(f"processes left over: {left}")
    report.seconds = time.monotonic() - begun
    return report


@contextmanager
def _site(folder: Path, chance: random.Random, replicated: bool, quiet_topics: int) -> Iterator[Site]:
    site = Site(folder, chance, replicated=replicated, heartbeat=quiet.HEARTBEAT if quiet_topics else 1)
    try:
        yield site
    finally:
        site.destroy()


def _start(subscribers: list[Subscriber]) -> None:
    for subscriber in subscribers:
        subscriber.start()
    for subscriber in subscribers:
        until(subscriber.opened.is_set)


def _producers(report: Report, site: Site) -> list[Producer]:
    names = [f"{report.rounds}-{number}" for number in range(PRODUCERS)]
    return [
        Producer(
            name, site.to_web.port, TOPICS, [f"chaos.new-{name}-{number}" for number in range(NEW_TOPICS)],
            ids=number % 2 == 0, chance=random.Random(f"producer {report.seed} {name}"),
        )
        for number, name in enumerate(names)
    ]  # fmt: skip


def _unsettled(site: Site, producers: Sequence[Producer | Corrector], subscribers: list[Subscriber]) -> list[str]:
    """Let producers finish and processes recover; return what is not done in time."""
    for producer in producers:
        producer.stopping.set()

    def missing() -> list[str]:
        found = [f"{producer.name} waits for an answer" for producer in producers if producer.is_alive()]
        return found + verdict.not_recovered(site)

    settled = verdict.in_time(lambda: not missing())
    for subscriber in subscribers:
        subscriber.forget_silence()
    return [] if settled else (missing() or ["all recovered after the deadline"]) + site.last_lines()


def _judge(
    report: Report, site: Site, producers: list[Producer], correctors: list[Corrector],
    subscribers: list[Subscriber], others: QuietSubscribers,
) -> None:  # fmt: skip
    logs = verdict.read_logs(site, producers)
    report.topics = len(logs)
    report.events = sum(map(len, logs.values()))
    report.lost, report.doubled, report.wrong = verdict.check_log(logs, producers)
    if report.lost or report.doubled:
        report.wrong.append(f"{report.lost} lost, {report.doubled} doubled")
    report.wrong += verdict.check_statistics(site, logs)
    report.wrong += verdict.check_latest(site, logs)
    report.wrong += verdict.check_alerts(site, logs)
    report.effects, report.effects_lost, report.effects_doubled, wrong = verdict.check_components(site, logs)
    report.wrong += wrong
    if report.effects_lost or report.effects_doubled:
        report.wrong.append(f"of a component: {report.effects_lost} lost, {report.effects_doubled} doubled")
    report.wrong += verdict.check_corrections(site, correctors)
    report.corrections = sum((Counter(one.counts) for one in correctors), Counter())
    for subscriber in subscribers:
        report.wrong += verdict.check_subscriber(site, logs, subscriber)
    report.wrong += verdict.check_quiet(logs, others)
    report.wrong += [f"an error of our own, {error}" for error in site.errors()]
    before, now = report.descriptors[0], max(site.descriptors().values())
    report.descriptors = before, now
    if now > before + _GROWTH + len(others.topics):  # one process may have all streams
        report.wrong.append("descriptors leak")


def _count(
    report: Report, faults: Faults, producers: list[Producer], subscribers: list[Subscriber], others: QuietSubscribers
) -> None:
    report.kills = faults.counts
    report.requests = sum(len(producer.requests) for producer in producers)
    report.attempts = sum(producer.attempts for producer in producers)
    report.resets = sum((subscriber.received.resets for subscriber in subscribers), others.resets())
    report.subscribers = len(subscribers) + len(others.topics)
    report.connects = sum(subscriber.connects for subscriber in subscribers) + others.connects
    report.messages = sum(subscriber.received.messages for subscriber in subscribers)
    report.gaps = {
        name: max(subscriber.longest_gap for subscriber in subscribers if subscriber.subscription is subscription)
        for name, subscription in STREAMS.items()
    }
