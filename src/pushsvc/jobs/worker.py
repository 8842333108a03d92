"""Runs the function of a job on one partition, in a worker of joblib."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]

from pushsvc.jobs.messages import FUNCTION, Done, Failed
from pushsvc.jobs.partitions import Partition

INLINE = 16_384
"""Bytes of a result that is sent as it is; a larger one waits in a file, so that no process has to hold it."""


def run_partition(folder: Path, number: int, partition: Partition) -> Done | Failed:
    """Return the result of a partition. Nothing that the function raises leaves the worker as an exception: that might
    be impossible to pickle, and would end the other partitions."""
    try:
        result = _function(folder)(partition.read())
        try:
            data = cloudpickle.dumps(result, protocol=5)
        except Exception as error:
            raise TypeError(f"the result, of type {type(result).__name__}, cannot be pickled: {error}") from error
        if len(data) <= INLINE:
            return Done(number, data)
        name = f"result-{number}.pickle"
        (folder / name).write_bytes(data)
        return Done(number, name)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a function may raise anything
        return Failed(number, describe(error), traceback.format_exc())


def describe(error: BaseException) -> str:
    """Return an error in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:500]}" if text else type(error).__name__


@lru_cache(maxsize=2)
def _function(folder: Path) -> Callable[[Any], Any]:
    function: Callable[[Any], Any] = cloudpickle.loads((folder / FUNCTION).read_bytes())
    return function


def use_path(path: list[str]) -> None:
    """Import modules from where the job's process does."""
    sys.path[:] = path
