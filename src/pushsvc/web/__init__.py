"""The Flask application: one module per resource."""

from __future__ import annotations

from flask import Flask

from pushsvc.broker import Broker
from pushsvc.event import Limits, Reader
from pushsvc.hub import Hub
from pushsvc.settings import TopicRules
from pushsvc.web import events, health, page, problem, stats, stream, topics
from pushsvc.web.context import Context
from pushsvc.web.security import Security

__all__ = ["Limits", "Security", "create_app", "hub_of"]


def create_app(
    broker: Broker,
    rules: TopicRules | None = None,
    security: Security | None = None,
    limits: Limits | None = None,
    *,
    heartbeat: float = 15.0,
) -> Flask:
    """Return the WSGI application over a broker. ``heartbeat`` is the silence, in seconds, that a stream may have."""
    app = Flask(__name__)
    limits = limits or Limits()
    app.config["MAX_CONTENT_LENGTH"] = limits.body
    rules = rules or TopicRules()
    context = Context(broker, Hub(broker, rules, heartbeat), rules, limits, Reader(limits))
    app.extensions["pushsvc"] = context
    problem.install(app)
    (security or Security()).install(app)
    for resource in (events, stats, stream, topics, health, page):
        app.register_blueprint(resource.blueprint(context))
    return app


def hub_of(app: Flask) -> Hub:
    """Return the hub of an app that ``create_app`` made."""
    context: Context = app.extensions["pushsvc"]
    return context.hub
