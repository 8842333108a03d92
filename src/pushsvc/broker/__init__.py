"""Redis: the logs, the scripts that append to them, live notifications, leases and checkpoints.

``Broker`` is part of the public interface and is loaded when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pushsvc.broker.broker import Broker

__all__ = ["Broker"]


def __getattr__(name: str) -> Any:
    if name != "Broker":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pushsvc.broker.broker import Broker

    return Broker
