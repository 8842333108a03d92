"""What a job and the process of its workers tell each other: pickles on a socket, read by nobody else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pushsvc.jobs.partitions import Partition

FUNCTION = "function.pickle"  # in the folder of the job


@dataclass(frozen=True)
class Work:
    """Partitions by their numbers, to be run on ``processes`` (-1: one for each core) of a backend of joblib."""

    path: Sequence[str]
    folder: Path
    partitions: Mapping[int, Partition]
    processes: int
    backend: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Begun:
    """A partition was given to a worker."""

    number: int


@dataclass(frozen=True)
class Done:
    """A partition has a result: its pickle, or the name of the file in the job's folder that has it."""

    number: int
    result: bytes | str


@dataclass(frozen=True)
class Failed:
    """The function raised an exception for a partition."""

    number: int
    error: str
    traceback: str


@dataclass(frozen=True)
class Lost:
    """The process ended, or one of its workers: partitions that were begun and not done have no result."""

    reason: str


@dataclass(frozen=True)
class Broken:
    """The work cannot be done at all, for example because a backend is not installed."""

    error: str
    traceback: str


@dataclass(frozen=True)
class Finished:
    """Every partition is done or failed."""


Message = Begun | Done | Failed | Lost | Broken | Finished
