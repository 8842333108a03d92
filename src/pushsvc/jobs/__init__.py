"""Parallel computation over tables: partitions, joblib, progress and partial results on a topic."""

from pushsvc.jobs.failures import Failure, JobCancelled, JobError, JobFailed
from pushsvc.jobs.job import Job, Pool, Report, run, statistics
from pushsvc.jobs.key_statistics import Statistics
from pushsvc.jobs.sources import Csv, Frame, Parquet

__all__ = [
    "Csv", "Failure", "Frame", "Job", "JobCancelled", "JobError", "JobFailed", "Parquet", "Pool", "Report",
    "Statistics", "run", "statistics",
]  # fmt: skip
