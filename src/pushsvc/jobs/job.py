"""A job: a function on each partition of a table, in several processes."""

from __future__ import annotations

import json
import pickle
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar, cast

import cloudpickle  # type: ignore[import-untyped]
import pandas as pd

from pushsvc.jobs.failures import Failure, JobCancelled, JobError, JobFailed
from pushsvc.jobs.key_statistics import Statistics
from pushsvc.jobs.merge import OrderedMerge
from pushsvc.jobs.messages import FUNCTION, Begun, Broken, Done, Failed, Finished, Lost, Work
from pushsvc.jobs.partitions import Partition
from pushsvc.jobs.process import WorkProcess
from pushsvc.jobs.sources import Source, source_of
from pushsvc.jobs.worker import describe
from pushsvc_client.batches import plain
from pushsvc_client.progress import DONE, FAILED, Progress

CANCELLED = "cancelled"
EVERY = 0.5
"""Seconds between two partial results."""
MOST_SHOWN = 48_000
"""Bytes of a partial result that is published: topics that keep the newest event of each key take 64 KB."""
_LISTED = 20
_TICK = 0.2

T = TypeVar("T")


class Publisher(Protocol):
    """A ``Client`` or a ``Push``."""

    def progress(self, topic: str, total: float | None = None, *, every: float = ..., **fields: Any) -> Progress:
        """Return what publishes the progress of a job."""
        ...


@dataclass(frozen=True)
class Pool:
    """Where partitions run: on ``processes`` of this host (None: one for each core), or on another backend of joblib,
    such as ``dask`` or ``ray``, with its ``options`` for ``joblib.parallel_config``. Workers on other hosts need the
    same files and a ``folder`` that all of them see. A partition is run at most ``attempts`` times: if a worker is
    killed, those that were running are run again, alone."""

    processes: int | None = None
    backend: str = "loky"
    options: Mapping[str, Any] = field(default_factory=dict)
    attempts: int = 3
    folder: str | Path | None = None

    def __post_init__(self) -> None:
        if (self.processes is not None and self.processes < 1) or self.attempts < 1:
            raise ValueError(f"processes={self.processes!r} and attempts={self.attempts!r} must be at least 1")


@dataclass
class Report:
    """What became of the partitions of a job: how many there are, how many are finished, how often one was run again
    because a worker was lost, and which failed."""

    partitions: int = 0
    finished: int = 0
    repeated: int = 0
    failures: list[Failure] = field(default_factory=list)


class Job(Generic[T]):
    """Runs ``function`` on each partition of ``source``, in processes that gevent has not patched.

    ``source`` is a DataFrame, the path of a CSV or Parquet file, or a ``Csv``, ``Parquet`` or ``Frame``. ``function``
    takes a DataFrame and returns anything that can be pickled; it may run twice for a partition. ``merge`` makes one
    result of two neighbours, which it must not change; without it the result is the list of all results, in the order
    of the rows.

    ``to``, a ``Client`` or a ``Push``, publishes the progress to the topic ``job.<name>``, together with what ``show``
    makes of the merged result so far, JSON of at most 48 KB. ``on_error="count"`` leaves partitions out whose function
    raises an exception; otherwise the first one ends the job. ``report`` has their names and tracebacks. ``pid`` is the
    process of the workers, and their group, while there is one.
    """

    def __init__(
        self, source: pd.DataFrame | str | Path | Source, function: Callable[[pd.DataFrame], T], *,
        merge: Callable[[T, T], T] | None = None, show: Callable[[T], Any] | None = None, name: str = "",
        to: Publisher | None = None, pool: Pool | None = None, on_error: Literal["fail", "count"] = "fail",
    ) -> None:  # fmt: skip
        if on_error not in ("fail", "count"):
            raise ValueError(f"on_error={on_error!r} must be 'fail' or 'count'")
        if to is not None and not name:
            raise ValueError("a job that publishes needs a name")
        self.report = Report()
        self.pid: int | None = None
        self._begun = False
        self._source, self._function = source_of(source), function
        self._show = show
        self._name, self._to, self._pool = name, to, pool or Pool()
        self._counts_errors = on_error == "count"
        self._cancelled = threading.Event()
        self._merge = OrderedMerge(merge) if merge else OrderedMerge[Any](lambda one, other: [*one, *other])
        self._lists = merge is None
        self._shown_at = 0.0

    def cancel(self) -> None:
        """End the job, from any thread: ``run`` raises JobCancelled once no process is left."""
        self._cancelled.set()

    def run(self) -> T:
        """Return the merged result. Call it once. Raise JobError, JobFailed or JobCancelled.

        However it ends, also by Ctrl-C, it leaves neither processes nor files.
        """
        if self._begun:
            raise ValueError("a job runs once")
        self._begun = True
        with tempfile.TemporaryDirectory(prefix="pushsvc-job-", dir=self._pool.folder) as name:
            folder = Path(name)
            try:
                (folder / FUNCTION).write_bytes(cloudpickle.dumps(self._function, protocol=5))
            except Exception as error:
                raise JobError(f"the function cannot be sent to another process: {describe(error)}") from error
            partitions = self._cut(folder)
            self.report.partitions = len(partitions)
            progress = self._begin(partitions)
            try:
                self._run(folder, partitions, progress)
                result = self._result()
                self._update(progress, 0)
            except BaseException as error:
                if progress:
                    self._close(progress, error)
                raise
            if progress:
                progress.close(DONE)
            return result

    def _cut(self, folder: Path) -> Sequence[Partition]:
        try:
            return self._source.cut(folder)
        except Exception as error:
            reason = str(error) if isinstance(error, JobError) else f"the table cannot be cut: {describe(error)}"
            if self._to:
                self._to.progress(f"job.{self._name}").close(FAILED, error=reason[:1_000])
            raise JobError(reason) from error

    def _begin(self, partitions: Sequence[Partition]) -> Progress | None:
        if self._to is None:
            return None
        total = sum(partition.size for partition in partitions)
        return self._to.progress(f"job.{self._name}", total, every=EVERY, unit=self._source.unit, **self._fields())

    def _fields(self) -> dict[str, Any]:
        report = self.report
        return {
            "partitions": report.partitions, "finished": report.finished, "failed": len(report.failures),
            "repeated": report.repeated,
        }  # fmt: skip

    def _run(self, folder: Path, partitions: Sequence[Partition], progress: Progress | None) -> None:
        """Run all partitions; those that lose a worker once more, each alone, so that the one that ends it is found."""
        losses = Counter[int]()
        rounds = [list(range(len(partitions)))]
        while rounds:
            wanted = rounds.pop(0)
            suspects, rest, reason = self._round(folder, partitions, wanted, bool(losses), progress)
            if rest and not suspects:
                raise JobFailed(f"the process of the workers does not work: {reason}")
            losses.update(suspects)
            for number in suspects:
                if losses[number] < self._pool.attempts:
                    self.report.repeated += 1
                    rounds.insert(0, [number])
                else:
                    reason = f"its process was lost {losses[number]} times: {reason}"
                    self._fail(partitions[number], number, reason, "", progress)
            rounds += [rest] if rest else []
            self._update(progress, 0)

    def _round(
        self, folder: Path, partitions: Sequence[Partition], wanted: Sequence[int], again: bool,
        progress: Progress | None,
    ) -> tuple[list[int], list[int], str]:  # fmt: skip
        """Run partitions; return those that ran when a worker was lost, those that had not begun, and the reason."""
        alone = again and len(wanted) == 1
        pool = self._pool
        processes = 1 if alone else -1 if pool.processes is None else pool.processes
        given = {number: partitions[number] for number in wanted}
        process = WorkProcess(Work(sys.path, folder, given, processes, pool.backend, pool.options))
        self.pid = process.pid
        begun: dict[int, None] = {}
        left = dict.fromkeys(wanted)
        try:
            while True:
                message = process.receive(_TICK)
                if self._cancelled.is_set():
                    raise JobCancelled("the job was cancelled")
                match message:
                    case Begun(number):
                        begun[number] = None
                    case Done(number, result):
                        del left[number]
                        self._take(folder, number, result)
                        self._update(progress, partitions[number].size)
                    case Failed(number, error, trace):
                        del left[number]
                        self._fail(partitions[number], number, error, trace, progress)
                    case Broken(error, trace):
                        raise JobFailed(error, [Failure("all", error, trace)])
                    case Lost(reason):
                        rest = [number for number in left if number not in begun]
                        return [number for number in left if number in begun], rest, reason
                    case Finished():
                        return [], [], ""
        finally:
            process.end()
            self.pid = None

    def _take(self, folder: Path, number: int, result: bytes | str) -> None:
        try:
            if isinstance(result, str):
                path = folder / result
                result = path.read_bytes()
                path.unlink()
            found = pickle.loads(result)
            self._merge.add(number, [found] if self._lists else found)
        except Exception as error:
            raise JobFailed(f"the results cannot be merged: {describe(error)}") from error
        self.report.finished += 1

    def _fail(self, partition: Partition, number: int, error: str, trace: str, progress: Progress | None) -> None:
        failure = Failure(partition.name, error, trace)
        self.report.failures.append(failure)
        if not self._counts_errors:
            raise JobFailed(f"{partition.name}: {error}", [failure])
        self._merge.add(number)
        self._update(progress, partition.size)

    def _result(self) -> T:
        if not self.report.finished:
            first = self.report.failures[0]
            raise JobFailed(f"every partition failed, {first.partition}: {first.error}", self.report.failures[:_LISTED])
        try:
            (result,) = self._merge.result()
        except Exception as error:
            raise JobFailed(f"the results cannot be merged: {describe(error)}") from error
        return cast(T, result)

    def _update(self, progress: Progress | None, by: float) -> None:
        """Publish how much is done; now and then, and at the end, with the merged result so far."""
        if progress is None:
            return
        fields = self._fields()
        report, now = self.report, time.monotonic()
        ends = report.finished + len(report.failures) == report.partitions
        if self._show and report.finished and (ends or now >= self._shown_at):
            fields |= self._shown()
            taken = time.monotonic() - now
            self._shown_at = now + max(EVERY / 2, 10 * taken)  # showing costs the job a tenth of its time at most
        progress.update(by, **fields)

    def _shown(self) -> dict[str, Any]:
        show = cast(Callable[[Any], Any], self._show)
        try:
            shown = show(*self._merge.result())
            size = len(json.dumps(shown, default=plain, allow_nan=False))
        except Exception as error:
            raise JobFailed(f"the result cannot be shown: {describe(error)}") from error
        if size > MOST_SHOWN:
            return {"result": None, "note": f"the result has {size} bytes, more than {MOST_SHOWN}"}
        return {"result": shown}

    def _close(self, progress: Progress, error: BaseException) -> None:
        if isinstance(error, JobFailed):
            progress.close(FAILED, **self._fields(), error=str(error)[:1_000])
        elif isinstance(error, Exception) and not isinstance(error, JobCancelled):
            progress.close(FAILED, **self._fields(), error=describe(error))
        else:  # Ctrl-C and the end of a greenlet are no Exception
            progress.close(CANCELLED, **self._fields())


def run(source: pd.DataFrame | str | Path | Source, function: Callable[[pd.DataFrame], T], **options: Any) -> T:
    """Return the result of a job; ``options`` are those of ``Job``."""
    job: Job[T] = Job(source, function, **options)
    return job.run()


def statistics(
    source: pd.DataFrame | str | Path | Source, values: Sequence[str] = (), *, by: str | None = None,
    distinct: Sequence[str] = (), percents: Sequence[int] = (), **options: Any,
) -> pd.DataFrame:  # fmt: skip
    """Return count, sum, mean, min, max, std, quantiles and distinct of columns by key, as ``Client.table`` does.

    They have the same bits whatever the number of processes. ``values``, ``by``, ``distinct`` and ``percents`` are
    those of ``Statistics``, ``options`` those of ``Job``.
    """
    wanted = Statistics(tuple(values), by, tuple(distinct), tuple(percents))
    return wanted.table(
        run(wanted.source(source_of(source)), wanted, **{"merge": wanted.merge, "show": wanted.show} | options)
    )
