"""Whether an app is still as ``create_app`` made it: only then may a request skip Flask.

The comparison covers everything that an app holds, so it also notices ways of extending an app that this module does
not know.
"""

from types import FunctionType
from typing import Any

import flask
from flask import Flask
from werkzeug.routing import Map

_KEY = "pushsvc.state"
_LAZY = frozenset({"_got_first_request", "cli", "debug", "extensions", "jinja_env", "jinja_loader", "logger", "name"})
"""Attributes that Flask fills in by itself. Of ``extensions`` only the names are compared."""

_REQUEST_METHODS = (
    "__call__", "wsgi_app", "full_dispatch_request", "preprocess_request", "dispatch_request", "process_response",
)  # fmt: skip
"""Methods that every request passes. Tracers replace them with wrappers."""

_SIGNALS = (
    flask.request_started, flask.request_finished, flask.request_tearing_down, flask.got_request_exception,
    flask.appcontext_pushed, flask.appcontext_popped, flask.appcontext_tearing_down,
)  # fmt: skip


def remember_state(app: Flask) -> None:
    """Record the state with which ``is_unmodified`` compares."""
    app.extensions[_KEY] = None
    app.extensions[_KEY] = _state(app)


def is_unmodified(app: Flask) -> bool:
    """Return whether the app is as it was at ``remember_state``: nothing was added, removed or wrapped."""
    return (
        type(app) is Flask
        and all(type(vars(Flask)[name]) is FunctionType for name in _REQUEST_METHODS)
        and not any(receiver for signal in _SIGNALS for receiver in signal.receivers_for(app))
        and app.extensions.get(_KEY) == _state(app)
    )


def _state(app: Flask) -> Any:
    attributes = {name: value for name, value in vars(app).items() if name not in _LAZY}
    return _frozen(attributes), frozenset(app.extensions)


def _frozen(value: Any) -> Any:
    """Return a value that compares equal as long as the same objects are in the same places."""
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items() if item or not isinstance(item, dict | list)}
    if isinstance(value, list | tuple):
        return [_frozen(item) for item in value]
    if isinstance(value, Map):
        return [id(rule) for rule in value.iter_rules()]
    if isinstance(value, flask.Blueprint):
        return {name: _frozen(item) for name, item in vars(value).items() if not name.startswith("_") and name != "cli"}
    return id(value)
