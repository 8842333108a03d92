"""One resource of the web application, with a context of the test's own."""

from __future__ import annotations

from types import ModuleType

from flask import Flask
from flask.testing import FlaskClient

from pushsvc.web import problem
from pushsvc.web.context import Context


def client_of(resource: ModuleType, context: Context) -> FlaskClient:
    """Return a client of an app that has only ``resource``, such as ``pushsvc.web.topics``."""
    app = Flask(resource.__name__)
    problem.install(app)
    app.register_blueprint(resource.blueprint(context))
    return app.test_client()
