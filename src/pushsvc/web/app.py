"""Creates the Flask application."""

import signal
from types import FrameType

import gevent
from flask import Flask

from pushsvc.alerts.webhook import AlertSettings
from pushsvc.auth.access import Access
from pushsvc.broker.broker import Broker
from pushsvc.errors import StartupError
from pushsvc.event import EventReader, Limits
from pushsvc.hub.hub import Hub
from pushsvc.hub.limits import FeedLimits
from pushsvc.settings import TopicRules
from pushsvc.web import alerts as alerts_resource
from pushsvc.web import (
    audit,
    authorization,
    capacity,
    components,
    corrections,
    count_requests,
    events,
    health,
    latest,
    pages,
    problem,
    request_id,
    series,
    session,
    sessions,
    stats,
    stream,
    topics,
)
from pushsvc.web.application import Application
from pushsvc.web.context import Context
from pushsvc.web.memory.budget import MemoryBudget
from pushsvc.web.rates.accounts import Accounts
from pushsvc.web.rates.streams import StreamCounts
from pushsvc.web.security import Security
from pushsvc.web.unmodified import remember_state

_NO_ALERTS = AlertSettings()


def create_app(
    broker: Broker,
    rules: TopicRules | None = None,
    security: Security | None = None,
    limits: Limits | None = None,
    *,
    access: Access | None = None,
    application: Application | None = None,
    heartbeat: float = 15.0,
    io_uring: bool = True,
    alerts: AlertSettings = _NO_ALERTS,
) -> Flask:
    """Return the WSGI application over a broker. ``heartbeat`` is the longest silence of a stream, in seconds.

    Without ``access`` everybody may do everything; ``application`` is asked about requests that it does not decide.
    ``io_uring`` sends a frame to many sockets with one system call, if the kernel supports that.
    """
    app = Flask(__name__)
    limits = limits or Limits()
    # Werkzeug silently cuts a body of unknown length at this size. With one byte more the reader can refuse it.
    app.config["MAX_CONTENT_LENGTH"] = limits.body + 1
    rules, security = rules or TopicRules(), security or Security()
    memory = MemoryBudget(limits.memory, limits.memory_per_address)
    hub = Hub(
        broker,
        rules,
        heartbeat,
        followed=limits.followed,
        io_uring=io_uring,
        feed_limits=FeedLimits(filters=limits.filters, snapshot=limits.snapshot, followed_bytes=limits.followed_bytes),
    )
    hub.count_in(memory)
    accounts, streams = Accounts(broker.rates, limits), StreamCounts(broker.rates)
    context = Context(
        broker, hub, rules, limits, EventReader(limits), security, memory, access, accounts, streams,
        {rule.name: rule for rule in alerts.rules}, alerts.webhooks,
    )  # fmt: skip
    app.extensions["pushsvc"] = context
    for part in (problem, request_id, audit, security, capacity):
        part.install(app)
    count_requests.install(app, accounts)
    authorization.install(app, access, application)
    count_requests.install_subjects(app, accounts)
    for resource in (
        events,
        corrections,
        latest,
        stats,
        series,
        stream,
        topics,
        alerts_resource,
        components,
        health,
        pages,
        session,
    ):
        app.register_blueprint(resource.blueprint(context))
    revoked = None if access is None else sessions.RevokedSessions(broker.revocations, access, hub)
    app.register_blueprint(sessions.blueprint(revoked))
    remember_state(app)
    return app


def create_metrics_app(security: Security) -> Flask:
    """Return an application with only ``/metrics``, for processes that serve nothing else."""
    app = Flask(__name__, static_folder=None)
    for part in (problem, request_id, audit, security, capacity):
        part.install(app)
    app.add_url_rule("/metrics", view_func=health.metrics)
    return app


def context_of(app: Flask) -> Context:
    """Return the context of an app that ``create_app`` made."""
    context: Context = app.extensions["pushsvc"]
    return context


def end_streams_on_term(app: Flask) -> None:
    """Make SIGTERM end the app's streams, each with a time to reconnect, and then call the present handler.

    For servers other than pushsvc's own: without it they wait for the streams until their own timeout and cut them.
    """
    before = signal.getsignal(signal.SIGTERM)
    if not callable(before):
        raise StartupError("call this in a worker that handles SIGTERM, for instance in gunicorn's post_worker_init")

    def handle(number: int, frame: FrameType | None) -> None:
        gevent.spawn(context_of(app).hub.drain)
        before(number, frame)

    signal.signal(signal.SIGTERM, handle)
