"""Alerts of a whole server: they stream, and each is there once although aggregators are killed."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

from support.processes import children, needs_proc
from support.stack import Stack
from support.waiting import until

STREAM = "/v1/topics/alerts/events?format=sse&last_event_id=earliest"


def define(stack: Stack, name: str, **members: str) -> int:
    answer = stack.request(
        "PUT", f"/v1/alerts/{name}", json.dumps(members).encode(), **{"Content-Type": "application/json"}
    )
    return answer.status


def alerts(stack: Stack, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = stack.get(f"/v1/topics/alerts/events.json?key={name}&limit=10000").json()["events"]
    return found


def test_an_alert_streams_when_it_is_raised_and_when_it_resolves(own_server: Stack) -> None:
    assert define(own_server, "low", topic="feedback", when="mean(rating, 1m) < 3") == 201
    with own_server.stream(STREAM + "&key=low") as stream:
        own_server.post("feedback", [{"rating": 1}])
        kind, event = stream.frame()
        assert (kind, event["row"], event["value"], event["topic"]) == ("raised", None, 1, "feedback")
        (state,) = own_server.get("/v1/alerts/low").json()["states"]
        assert (state["state"], state["value"], state["since"]) == ("raised", 1, event["since"])
        own_server.post("feedback", [{"rating": 9}])
        kind, event = stream.frame()
        assert (kind, event["value"]) == ("resolved", 5)
    until(lambda: own_server.stats("alerts")["offset"] == 2)


def test_silence_of_a_quiet_topic_is_raised(own_server: Stack) -> None:
    """Nobody reads the topic, and nothing else happens there."""
    assert define(own_server, "silent", topic="feedback", when="count(1m) = 0") == 201
    until(lambda: [event["type"] for event in alerts(own_server, "silent")] == ["raised"])


@needs_proc
def test_each_transition_is_there_once_although_aggregators_are_killed(stack: Stack) -> None:
    stack.configure('[topics.">"]\nwindows = ["10s", "1m"]\n')
    parent = stack.start("serve", "serve", "--port", str(stack.port), "--workers", "1")
    until(stack.ready)
    assert define(stack, "seen", topic="feedback", when="count(1m) > 0", by="key") == 201
    assert define(stack, "each", topic="feedback", when="event.n >= 0") == 201
    assert define(stack, "start", topic="feedback", when="count(1m) = 0") == 201
    until(lambda: alerts(stack, "start"))
    sent = 0
    for turn in range(4):
        for number in range(10):
            stack.post("feedback", [{"key": f"k{turn}-{number}", "n": number}])
            sent += 1
        (pid,) = until(lambda: list(children(parent.pid, "_aggregator")))
        os.kill(pid, signal.SIGKILL)
        until(lambda pid=pid: pid not in children(parent.pid, "_aggregator"))
    until(lambda: len(alerts(stack, "seen")) >= sent and len(alerts(stack, "each")) >= sent)
    assert sorted(event["row"] for event in alerts(stack, "seen")) == sorted(
        f"k{turn}-{number}" for turn in range(4) for number in range(10)
    )
    assert [event["event"] for event in alerts(stack, "each")] == [f"${offset}" for offset in range(1, sent + 1)]
