"""The metrics of the process that runs the tests."""

from __future__ import annotations

from prometheus_client import REGISTRY


def metric(name: str, **labels: str) -> float:
    """Return a metric's value, 0 if it has none. As every scrape, this writes buffered changes first."""
    return REGISTRY.get_sample_value(name, labels) or 0.0
