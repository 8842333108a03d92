"""pushsvc: a Server-Sent Events push server with rolling-window statistics.

The names that ``__init__.pyi`` has are imported when they are first used: a producer needs neither Flask nor gevent.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_GRANTS = "pushsvc.auth.grants"
_MODULES = {
    "Grant": _GRANTS, "Grants": _GRANTS, "Push": "pushsvc.extension.push", "TopicGrants": _GRANTS,
    "on": "pushsvc.components.registry",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
