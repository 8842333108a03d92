"""How a job ends if not well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Failure:
    """A partition without a result: its name, the error in one line, and the traceback in its process, if any."""

    partition: str
    error: str
    traceback: str = ""


class JobError(Exception):
    """A job cannot start: its source is unreadable, or its function cannot be sent to another process."""


class JobFailed(Exception):
    """A job ended without a result; ``failures`` has the partitions that failed."""

    def __init__(self, message: str, failures: Sequence[Failure] = ()) -> None:
        super().__init__(message)
        self.failures = list(failures)
        for failure in self.failures:
            if failure.traceback:
                self.add_note(failure.traceback)


class JobCancelled(Exception):
    """A job was cancelled."""
