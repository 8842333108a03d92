"""pushsvc: a Server-Sent Events push server with rolling-window statistics.

The names below ``__version__`` are imported when they are first used: a producer needs neither Flask nor gevent.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pushsvc.auth.grants import Grant, Grants, TopicGrants
    from pushsvc.extension.push import Push

__all__ = ["Grant", "Grants", "Push", "TopicGrants"]

__version__ = "0.1.0"

_GRANTS = "pushsvc.auth.grants"
_MODULES = {"Grant": _GRANTS, "Grants": _GRANTS, "Push": "pushsvc.extension.push", "TopicGrants": _GRANTS}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
