"""The effects of handlers are there exactly once, whatever process is killed at whatever moment."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

from support.processes import children, needs_proc
from support.waiting import until

if TYPE_CHECKING:
    from conftest import Site

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


@needs_proc
def test_every_event_counts_once_although_processes_are_killed(site: Site) -> None:
    chance = random.Random(7)
    site.app(APP)
    workers = {name: site.work(name) for name in ("one", "two")}
    sent: list[tuple[str, str, int]] = []
    for turn in range(12):
        for _ in range(10):
            topic, key = f"clicks.{chance.randrange(3)}", f"k{chance.randrange(4)}"
            values = list(range(len(sent), len(sent) + chance.randrange(1, 30)))
            site.publish(topic, *({"value": value} for value in values), key=key)
            sent += [(topic, key, value) for value in values]
        time.sleep(chance.random() * 0.2)
        parent = workers[chance.choice(list(workers))].pid
        victims = children(parent, "_worker")
        if turn % 2:
            victims = [child for victim in victims for child in children(victim, "_components")]
        for victim in victims:
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
    expected = Counter((topic, key, value) for topic, key, value in sent)

    def totals() -> list[tuple[str, str, int, int]]:
        events = [event for number in range(3) for event in site.events(f"totals.{number}")]
        return [(event.data["source"], event.key or "", event.data["value"], event.data["n"]) for event in events]

    until(lambda: len(totals()) >= len(sent))
    timers = sorted(value for _, _, value in sent if value % 10 == 0)
    until(lambda: len(site.events("fired")) >= len(timers))
    for name in workers:
        site.stack.stop(name)
    assert Counter((topic, key, value) for topic, key, value, _ in totals()) == expected
    assert sorted(event.data["value"] for event in site.events("fired")) == timers
    for topic, key in {(topic, key) for topic, key, _ in sent}:
        # The state of a key was changed once for each of its events, in their order.
        own = sorted((n, value) for source, name, value, n in totals() if (source, name) == (topic, key))
        assert own == list(enumerate((v for t, k, v in sent if (t, k) == (topic, key)), 1))
