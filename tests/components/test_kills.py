"""The effects of handlers are there exactly once, whatever process is killed at whatever moment."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pushsvc.broker.broker import Broker
from pushsvc.errors import Unavailable
from support.components import Site
from support.processes import children, needs_proc
from support.stack import Stack, client_of
from support.waiting import until

if TYPE_CHECKING:
    from pushsvc.broker.embedded import EmbeddedServer

WORKERS = ("one", "two")

APP = """
    @on("clicks.*", group="count", start="beginning", retries=100, backoff=0.01)
    def count(event, ctx):
        ctx.state["n"] = ctx.state.get("n", 0) + 1
        ctx.state["sum"] = ctx.state.get("sum", 0) + event["value"]
        if event["value"] % 7 == 0 and ctx.attempt < 3:
            raise RuntimeError("not yet")
        ctx.emit(f"totals.{event['value'] % 3}", {"key": event.key, "n": ctx.state["n"], "value": event["value"],
                                               "source": event.topic})
        if event["value"] % 10 == 0:
            ctx.call_later(0.05, later, name=str(event["value"]), value=event["value"])

    @on.timer
    def later(ctx, value):
        ctx.state["timers"] = ctx.state.get("timers", 0) + 1
        ctx.emit("fired", {"value": value, "key": ctx.key, "n": ctx.state["timers"]})
"""


def publish_some(site: Site, chance: random.Random, sent: int) -> int:
    """Publish some events of some keys; return how many there are now. What Redis did not confirm counts, too."""
    for _ in range(10):
        topic, key = f"clicks.{chance.randrange(3)}", f"k{chance.randrange(4)}"
        values = range(sent, sent + chance.randrange(1, 30))
        with suppress(Unavailable):
            site.publish(topic, *({"value": value} for value in values), key=key)
        sent += len(values)
    return sent


def check(site: Site) -> None:
    """Compare what handlers did with a computation over the events that the logs have."""
    sent = [
        (f"clicks.{number}", event.key or "", event.data["value"])
        for number in range(3)
        for event in site.events(f"clicks.{number}")
    ]
    timers = sorted(value for _, _, value in sent if value % 10 == 0)

    def totals() -> list[tuple[str, str, int, int]]:
        events = [event for number in range(3) for event in site.events(f"totals.{number}")]
        return [(event.data["source"], event.key or "", event.data["value"], event.data["n"]) for event in events]

    until(lambda: len(totals()) >= len(sent))
    until(lambda: len(site.events("fired")) >= len(timers))
    for name in WORKERS:
        site.stack.stop(name)
    assert Counter((topic, key, value) for topic, key, value, _ in totals()) == Counter(sent)
    assert sorted(event.data["value"] for event in site.events("fired")) == timers
    for topic, key in {(topic, key) for topic, key, _ in sent}:
        # The state of a key was changed once for each of its events, in their order.
        own = sorted((n, value) for source, name, value, n in totals() if (source, name) == (topic, key))
        assert own == list(enumerate((v for t, k, v in sent if (t, k) == (topic, key)), 1))


@needs_proc
def test_every_event_counts_once_although_processes_are_killed(site: Site) -> None:
    chance = random.Random(7)
    site.app(APP)
    workers = [site.work(name) for name in WORKERS]
    sent = 0
    for turn in range(12):
        sent = publish_some(site, chance, sent)
        time.sleep(chance.random() * 0.2)
        victims = children(chance.choice(workers).pid, "_worker")
        if turn % 2:
            victims = [child for victim in victims for child in children(victim, "_components")]
        for victim in victims:
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
    check(site)


def test_every_event_counts_once_although_redis_and_its_connections_are_killed(
    start_redis: Callable[..., EmbeddedServer], tmp_path: Path
) -> None:
    redis, chance, sent = start_redis(), random.Random(11), 0
    with Stack(redis.url, "pushsvc:", tmp_path) as stack, closing(Broker(redis.url, "pushsvc:")) as broker:
        site = Site(stack, broker, tmp_path)
        site.app(APP)
        for name in WORKERS:
            site.work(name)
        for turn in range(8):
            sent = publish_some(site, chance, sent)
            time.sleep(chance.random() * 0.2)
            if turn % 4 == 3 and redis.pid is not None:
                os.kill(redis.pid, signal.SIGKILL)
                until(lambda: not redis.alive())
                redis.start()
            else:
                with closing(client_of(redis.url)) as admin:
                    admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        until(lambda: is_up(broker))
        check(site)


def is_up(broker: Broker) -> bool:
    with suppress(Unavailable):
        return bool(broker.time())
    return False
