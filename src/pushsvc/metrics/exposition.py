"""The metrics of all processes of a supervisor in Prometheus's text format.

Each process writes its metrics to files in the directory that PROMETHEUS_MULTIPROC_DIR names. The process that is
scraped adds up the files of all.
"""

from __future__ import annotations

import os

from prometheus_client import REGISTRY, CollectorRegistry, generate_latest, values
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.multiprocess import MultiProcessCollector

from pushsvc.metrics.buffered import FLUSHER

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
SLOT_VARIABLE = "PUSHSVC_SLOT"  # names the slot of a child process under its supervisor, such as ``web-1``


def name_files_by_slot() -> None:
    """Name this process's metrics files after its slot. Call it before any metric is created.

    prometheus_client names the files after process ids. They would pile up when a process crashes repeatedly, because
    no counter may be lost. A restarted child reuses its slot, so it continues the counters of the process before it.
    """
    slot = os.environ.pop(SLOT_VARIABLE, None)
    if slot is not None:
        values.ValueClass = values.MultiProcessValue(lambda: slot)  # type: ignore[no-untyped-call]


def exposition() -> bytes:
    """Return the metrics of every process that shares the directory, or of this process if there is no directory."""
    FLUSHER.flush()
    if DIRECTORY_VARIABLE not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
