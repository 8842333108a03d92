"""Whether an app is still as ``create_app`` made it: only then may a request go past Flask.

Everything that an app holds is compared, so that also a way of adding to it is noticed that nobody thought of here.
"""

from __future__ import annotations

from types import FunctionType
from typing import Any

import flask
from flask import Flask
from werkzeug.routing import Map

_KEY = "pushsvc.state"
_LAZY = frozenset({"_got_first_request", "cli", "debug", "extensions", "jinja_env", "jinja_loader", "logger", "name"})
"""What Flask fills in by itself. Of ``extensions`` the names count."""

_PATH = ("__call__", "wsgi_app", "full_dispatch_request", "preprocess_request", "dispatch_request", "process_response")
"""The way of a request through Flask. Tracers put a wrapper in the place of such a function."""

_SIGNALS = (
    flask.request_started, flask.request_finished, flask.request_tearing_down, flask.got_request_exception,
    flask.appcontext_pushed, flask.appcontext_popped, flask.appcontext_tearing_down,
)  # fmt: skip


def note_state(app: Flask) -> None:
    app.extensions[_KEY] = None
    app.extensions[_KEY] = _state(app)


def is_untouched(app: Flask) -> bool:
    """Tell whether nothing was added to, taken from or wrapped around an app since ``note_state``."""
    return (
        type(app) is Flask
        and all(type(vars(Flask)[name]) is FunctionType for name in _PATH)
        and not any(receiver for signal in _SIGNALS for receiver in signal.receivers_for(app))
        and app.extensions.get(_KEY) == _state(app)
    )


def _state(app: Flask) -> Any:
    attributes = {name: value for name, value in vars(app).items() if name not in _LAZY}
    return _frozen(attributes), frozenset(app.extensions)


def _frozen(value: Any) -> Any:
    """Return something that compares equal while the same objects are in the same places."""
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items() if item or not isinstance(item, dict | list)}
    if isinstance(value, list | tuple):
        return [_frozen(item) for item in value]
    if isinstance(value, Map):
        return [id(rule) for rule in value.iter_rules()]
    if isinstance(value, flask.Blueprint):
        return {name: _frozen(item) for name, item in vars(value).items() if not name.startswith("_") and name != "cli"}
    return id(value)
