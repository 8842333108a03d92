"""pushsvc: a Server-Sent Events push server with rolling-window statistics.

The names that ``__init__.pyi`` has are imported when they are first used: a producer needs neither Flask nor gevent.
"""

from importlib import import_module
from typing import Any

from pushsvc_client import __version__ as __version__

_GRANTS = "pushsvc.auth.grants"
_MODULES = {
    "BufferFull": "pushsvc.extension.publisher", "ClientError": "pushsvc_client.errors",
    "Grant": _GRANTS, "Grants": _GRANTS, "Job": "pushsvc.jobs.job", "Push": "pushsvc.extension.push",
    "TopicGrants": _GRANTS, "on": "pushsvc.components.registry",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
