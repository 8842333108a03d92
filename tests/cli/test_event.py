"""``pushsvc event`` against a running server."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from support.stack import Stack
from support.waiting import DEADLINE


def run(server: Stack, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pushsvc", "event", *arguments, "--url", server.url],
        input=given, capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip


def answer(server: Stack, *arguments: str, given: str = "") -> Any:
    done = run(server, *arguments, given=given)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_an_event_is_shown_corrected_and_deleted(shared_server: Stack, topic: str) -> None:
    shared_server.post(topic, [{"id": "a/1", "rating": 1, "note": "\x1b]0;title\x07"}, {"rating": 2}])
    shown = run(shared_server, "show", topic, "a/1")
    assert "\x1b" not in shown.stdout
    event = json.loads(shown.stdout)["event"]
    assert (event["$offset"], event["rating"], event["note"]) == (1, 1, "\x1b]0;title\x07")

    assert answer(shared_server, "correct", topic, "a/1", '{"rating": 5, "note": null}')["event"]["rating"] == 5
    assert answer(shared_server, "correct", topic, "$2", given='{"rating": 4}')["event"]["rating"] == 4
    corrected = answer(shared_server, "show", topic, "$1")
    assert "note" not in corrected["event"]
    assert [one["step"] for one in corrected["life"]].count("corrected") == 1

    answer(shared_server, "delete", topic, "$2")
    assert run(shared_server, "show", topic, "$2").returncode == 0
    answer(shared_server, "delete", topic, "$2", "--erase")
    gone = run(shared_server, "correct", topic, "$2", '{"rating": 1}')
    assert gone.returncode == 1
    assert "410" in gone.stderr


def test_what_is_wrong_is_named(shared_server: Stack, topic: str) -> None:
    shared_server.post(topic, {"id": "a"})
    for arguments, code, text in (
        (("show", topic, "nobody"), 1, "404"),
        (("show", "a b", "1"), 1, "topic"),
        (("correct", topic, "a", "{"), 2, "CHANGES: no JSON"),
        (("correct", topic, "a", "[1]"), 2, "CHANGES: a JSON object is expected"),
        (("correct", topic, "a", '{"id": "b"}'), 1, "400"),
    ):
        done = run(shared_server, *arguments)
        assert (done.returncode, done.stdout) == (code, ""), arguments
        assert text in done.stderr, arguments
        assert "Traceback" not in done.stderr
