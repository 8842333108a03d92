"""Processes by their parents, through /proc."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from support.waiting import DEADLINE

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="children are found through /proc")


def children(parent: int, role: str) -> list[int]:
    """Return the children of a process whose command line has an argument ``role``, such as ``_aggregator``."""
    found = []
    with suppress(OSError):
        for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            with suppress(OSError):
                if role in Path(f"/proc/{pid}/cmdline").read_text().split("\0"):
                    found.append(int(pid))
    return found


@contextmanager
def forked(function: Callable[[Any], None], arguments: Iterable[Any]) -> Iterator[None]:
    """Call a function with each of some arguments, each in a fork of this process. The end of the block waits until all
    have ended without an error."""
    processes = [get_context("fork").Process(target=function, args=[argument]) for argument in arguments]
    for process in processes:
        process.start()
    try:
        yield
        for process in processes:
            process.join(DEADLINE)
            assert process.exitcode == 0
    finally:
        for process in processes:
            process.kill()


def descendants(parent: int) -> dict[int, list[str]]:
    """Return the command lines of the children of a process, and of theirs, by their ids."""
    found: dict[int, list[str]] = {}
    for path in Path(f"/proc/{parent}/task").glob("*/children"):  # each thread has children of its own
        with suppress(OSError):
            for pid in map(int, path.read_text().split()):
                with suppress(OSError):
                    found[pid] = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
                    found |= descendants(pid)
    return found
