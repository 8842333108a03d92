"""Finds children whose event loop stands still.

Time counts only as far as the supervisor itself was awake, and without the time in which the child was stopped or
waited for a processor. So nothing is found after a suspension of the machine, a stop of all processes or of one, or on
a busy machine.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from pushsvc.supervisor.heartbeat import INTERVAL

_START = 6  # times the limit: imports, connecting and a wait for Redis's data come before the first beat
_GRACE = 2.0  # seconds for the stacks of a process that is to be replaced


class Verdict(Enum):
    """What to do with a child."""

    RUNS = "runs"
    DUMP = "write its stacks"
    REPLACE = "replace it"


class ProcessState(NamedTuple):
    """Whether a process is stopped, and the seconds in which its main thread waited for a processor, ever."""

    stopped: bool = False
    waited: float = 0.0


def process_state(pid: int, root: Path = Path("/proc")) -> ProcessState:
    """Return the state of a process; where the system does not tell, one that runs and never waits."""
    stopped, waited = False, 0.0
    with suppress(OSError, IndexError):
        stopped = (root / f"{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
    with suppress(OSError, IndexError, ValueError):
        waited = int((root / f"{pid}/schedstat").read_text().split()[1]) / 1e9
    return ProcessState(stopped, waited)


@dataclass(slots=True)
class _Watched:
    count: int
    waited: float
    still: float = 0.0  # seconds since the last beat
    dumped: float | None = None  # of ``still``, when the stacks were asked for


class LoopWatch:
    """Watches children, each by its process id. A loop may stand still for ``limit`` seconds, and a child may take
    ``_START`` times as long to its first beat."""

    def __init__(self, limit: float, now: float, state: Callable[[int], ProcessState] = process_state) -> None:
        self._limit = limit
        self._state = state
        self._looked = now
        self._watched: dict[int, _Watched] = {}

    def look(self, counts: dict[int, int], now: float) -> dict[int, Verdict]:
        """Return a verdict for each process of ``counts``, which has its beats. Call it once an INTERVAL or more
        often: of a longer time one INTERVAL counts."""
        passed, self._looked = min(now - self._looked, INTERVAL), now
        self._watched = {pid: one for pid, one in self._watched.items() if pid in counts}
        return {pid: self._judge(pid, count, passed) for pid, count in counts.items()}

    def _judge(self, pid: int, count: int, passed: float) -> Verdict:
        watched = self._watched.get(pid)
        if watched is None or watched.count != count:
            self._watched[pid] = _Watched(count, self._state(pid).waited)
            return Verdict.RUNS
        stopped, waited = self._state(pid)
        if stopped:
            return Verdict.RUNS  # by an operator
        watched.still += passed
        if watched.still - (waited - watched.waited) <= (self._limit if count else self._limit * _START):
            return Verdict.RUNS
        if watched.dumped is None:
            watched.dumped = watched.still
            return Verdict.DUMP
        return Verdict.RUNS if watched.still < watched.dumped + _GRACE else Verdict.REPLACE
