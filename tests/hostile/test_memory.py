"""Memory held for clients is bounded, whatever they send or leave unread."""

import re
from urllib.request import urlopen

from hostile.attacks import slow_streams, unread_answers, withheld_uploads
from support.processes import children, needs_proc
from support.stack import Stack
from support.waiting import until

pytestmark = needs_proc
LIMIT = 400_000
"""Kilobytes of a web process with default limits after any attack."""


def greatest_resident(supervisor: int) -> int:
    """Return the greatest resident memory of the web worker until now, in kilobytes."""
    [worker] = children(supervisor, "_web")
    with open(f"/proc/{worker}/status") as status:
        return int(re.search(r"VmHWM:\s+([0-9]+)", status.read())[1])


def start_web(stack: Stack) -> int:
    """Start a web process; return its supervisor."""
    process = stack.start("web", "web", "--port", str(stack.port))
    until(lambda: stack.ready() or stack.ended("web"))
    return process.pid


def metric(stack: Stack, name: str) -> float:
    with urlopen(f"{stack.url}/metrics") as answer:
        return float(re.search(rf"^pushsvc_{name} (\S+)$", answer.read().decode(), re.MULTILINE)[1])


def test_withheld_uploads(stack: Stack) -> None:
    supervisor = start_web(stack)

    def publish() -> None:
        """A producer with bodies of a usual size gets room although the budget is used up."""
        until(lambda: metric(stack, "memory_held_bytes") > 40_000_000)
        for size in (1, 2_000):
            assert stack.post("orders", [{"number": n, "text": "x" * 60} for n in range(size)]).status == 202

    statuses = withheld_uploads.attack(stack.url, uploads=60, meanwhile=publish)
    assert statuses["503"] >= 40
    assert statuses["202"] >= 1, "what was complete is stored"
    until(lambda: metric(stack, "memory_refusals_total") >= 40)
    until(lambda: metric(stack, "memory_held_bytes") == 0)
    assert greatest_resident(supervisor) < LIMIT


def test_unread_answers(stack: Stack) -> None:
    supervisor = start_web(stack)
    states = unread_answers.attack(stack.url, pages=15)
    assert states["cut"] + states["503"] >= 10
    until(lambda: metric(stack, "memory_refusals_total") >= 10)
    until(lambda: metric(stack, "memory_held_bytes") == 0)
    assert greatest_resident(supervisor) < LIMIT


def test_slow_streams(stack: Stack) -> None:
    """Their backlogs, of at most a megabyte each, do not fit into the budget together."""
    supervisor = start_web(stack)

    def ended() -> None:
        until(lambda: metric(stack, "slow_closes_total") >= 20)

    slow_streams.attack(stack.url, streams=120, bodies=120, pause=0.0, meanwhile=ended)
    until(lambda: metric(stack, "memory_held_bytes") == 0)
    assert greatest_resident(supervisor) < LIMIT
