"""Runs one attack beside the normal work."""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter
from importlib import import_module

from hostile.watch import Report, Watch

QUIET = 3.0
"""Seconds of normal work before the first attack, and after each."""

LONGEST = 600.0
"""Seconds after which an attack is ended."""


def run_attack(name: str, url: str, answers: multiprocessing.Queue[dict[str, int]]) -> None:
    """Run an attack in a process of its own, and report the statuses it got."""
    result = import_module(f"hostile.attacks.{name}").attack(url)
    if isinstance(result, Counter):
        answers.put({str(outcome): count for outcome, count in result.items()})
    else:
        answers.put(Counter(str(getattr(answer, "status", answer)) for answer in result or ["done"]))


def strike(name: str, url: str, watch: Watch) -> tuple[dict[str, int], float, Report]:
    """Run one attack; return the statuses, its seconds, and what normal clients saw until it was quiet again."""
    context = multiprocessing.get_context("spawn")
    answers: multiprocessing.Queue[dict[str, int]] = context.Queue()
    process = context.Process(target=run_attack, args=(name, url, answers), daemon=True)
    begun = time.monotonic()
    process.start()
    process.join(LONGEST)
    if process.is_alive():
        process.kill()
    seconds = time.monotonic() - begun
    time.sleep(QUIET)
    return ({} if answers.empty() else answers.get()), seconds, watch.report()
