"""A server defends itself against full memory and full limits."""

from __future__ import annotations

from typing import Any

from support.parent import ask


def test_full_memory_refuses_events_and_the_limit_is_said_at_the_start(parents: Any) -> None:
    parent = parents("serve", "--port", "0", "--maxmemory", "16MB")
    port = parent.ready()
    assert "at most 16 MB of memory (--maxmemory)" in parent.output
    events = [{"text": "x" * 70_000} for _ in range(100)]
    answers = [ask(port, "POST", f"/v1/topics/t{number}/events", events) for number in range(4)]
    assert answers[0][0] == 202
    assert answers[-1][0] == 503
    assert answers[-1][1]["type"].endswith("broker-full")
    assert parent.end() == 0


def test_half_of_the_memory_is_the_default(parents: Any) -> None:
    from pushsvc.broker.system_memory import usable_memory

    parent = parents("serve", "--port", "0")
    parent.ready()
    assert f"at most {usable_memory() // 2 / 10**6:,.0f} MB of memory (--maxmemory)" in parent.output
    assert parent.end() == 0
