"""The Flask application: one module per resource.

The names below are the public interface. Each is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pushsvc.event import Limits
    from pushsvc.web.app import create_app, end_streams_on_term
    from pushsvc.web.security import Security

__all__ = ["Limits", "Security", "create_app", "end_streams_on_term"]

_MODULES = {
    "Limits": "pushsvc.event",
    "Security": "pushsvc.web.security",
    "create_app": "pushsvc.web.app",
    "end_streams_on_term": "pushsvc.web.app",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
