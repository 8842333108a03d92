"""The figures of all processes of a supervisor in Prometheus's text format.

Each process counts in files of its own in PROMETHEUS_MULTIPROC_DIR, and whoever is asked sums the files of all.
"""

from __future__ import annotations

import os

from prometheus_client import REGISTRY, CollectorRegistry, generate_latest, values
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.multiprocess import MultiProcessCollector

from pushsvc.metrics.buffered import WRITER

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
PLACE = "PUSHSVC_PLACE"
"""Names the place that a process has among the children of its supervisor, such as ``web-1``."""


def count_in_place() -> None:
    """Name the files after the process's place. To be called before any metric is made.

    Named after pids, as they are else, they would pile up when a process crashes again and again: no counter may be
    forgotten. So whoever takes a place goes on counting where the one before ended.
    """
    place = os.environ.pop(PLACE, None)
    if place is not None:
        values.ValueClass = values.MultiProcessValue(lambda: place)  # type: ignore[no-untyped-call]


def exposition() -> bytes:
    """Return the figures of every process that shares the folder; without one, of this process."""
    WRITER.write()
    if FOLDER not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
