"""``Push(app)``: live updates in a Flask application, behind its own login."""

from __future__ import annotations

import atexit
import inspect
import logging
import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from importlib.resources import files
from types import FrameType
from typing import Any, TypeVar, cast
from urllib.parse import quote, urlencode

from flask import (
    Blueprint,
    Flask,
    Response,
    abort,
    current_app,
    g,
    has_request_context,
    request,
    send_from_directory,
    url_for,
)
from werkzeug.exceptions import Forbidden as WerkzeugForbidden
from werkzeug.exceptions import Unauthorized

from pushsvc.auth.grants import (
    EVERYTHING,
    NOTHING,
    Action,
    Grant,
    Grants,
    InvalidGrants,
    TopicGrants,
    claim_of,
    read_grants,
)
from pushsvc.config import Settings
from pushsvc.errors import Forbidden, InvalidParameter, MissingToken, NotGranted, PushError, at_place
from pushsvc.extension.bridge import Bridge, address_of
from pushsvc.extension.commands import add_commands
from pushsvc.extension.job_progress import JobProgress
from pushsvc.extension.links import PARAMETER, grants_of, sign
from pushsvc.extension.publisher import BufferFull, OnError, Publisher
from pushsvc.extension.question import (
    RESOURCES,
    Asked,
    Question,
    is_served,
    of_alerts,
    of_management,
    of_stream,
    of_topic,
)
from pushsvc.extension.server import PushServer, ServerInFront, ServerUnavailable, server_of
from pushsvc.extension.settings import names_in, settings_of
from pushsvc.server.gateway.granted import MEDIA_TYPE as GRANTED
from pushsvc.server.gateway.granted import Granted
from pushsvc.supervisor.served import Mount, answers_questions, mounts
from pushsvc.topic import check_pattern, check_topic, is_pattern
from pushsvc.web.html_data import FIELD
from pushsvc.web.problem import problem_of
from pushsvc.web.security import Security
from pushsvc_client.batches import Events
from pushsvc_client.errors import ClientError

log = logging.getLogger(__name__)

EXTENSION = "pushsvc-push"
"""The name of the extension in ``app.extensions``."""

Authorize = Callable[[str, str, str | None], bool | Grants | None]
A = TypeVar("A", bound=Authorize)

_BLUEPRINT = "pushsvc"
_OURS = frozenset({PARAMETER, "data"})  # parameters that the push server does not get
_TIMEOUT = 1.0  # seconds for which publish waits by default
_PROGRESS = 10.0  # seconds for an event of a job
_LAST_FLUSH = 2.0  # seconds for the buffer at the end of the process, or of a job
_BUFFERED = "_pushsvc_buffered"  # whether the context of a job has left events to the buffer
_METHODS = ["GET", "POST", "PATCH", "DELETE", "OPTIONS"]
_WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_ONLY_LOCAL = "until the application registers @push.authorize only this machine may use pushsvc"


@dataclass(frozen=True, slots=True)
class _State:
    """What one application has of the extension."""

    settings: Settings
    security: Security
    server: PushServer
    bridge: Bridge
    publisher: Publisher


class Push:
    """Serves streams under ``url_prefix`` of an application and publishes from it.

    One object may serve several applications (``init_app``). ``authorize`` registers the function that decides who may
    subscribe and publish over HTTP; without one only this machine may, under the name ``localhost``.
    """

    def __init__(self, app: Flask | None = None, url_prefix: str = "/push") -> None:
        self._url_prefix = url_prefix
        self._authorize: Authorize | None = None
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask, url_prefix: str | None = None) -> None:
        """Add the extension to an application. Raise InvalidSetting for an ``app.config["PUSHSVC_..."]`` that is wrong.

        The push server starts with the first request of the application, or the first publish.
        """
        if EXTENSION in app.extensions:
            raise RuntimeError("the application has the extension already")
        settings = settings_of(app.config)
        server = server_of(settings)
        security = Security(
            settings.allow_host, settings.allow_origin, allow_read_origins=settings.allow_read_origin,
            allow_write_origins=settings.allow_write_origin,
        )  # fmt: skip
        state = _State(
            settings, security, server, Bridge(server, settings.heartbeat, settings.limits.body), Publisher(server)
        )
        app.extensions[EXTENSION] = state
        _states.add(state.publisher)
        prefix = "/" + (self._url_prefix if url_prefix is None else url_prefix).strip("/")
        app.register_blueprint(self._blueprint(state, prefix), url_prefix=prefix)
        for place in dict.fromkeys((prefix, _root(app) + prefix)):
            mounts.append(Mount(place, names_in(app.config), settings.encode()))
        app.jinja_env.globals.setdefault("stream_url", self.stream_url)
        _drain_with_worker(state.bridge)
        started = threading.Event()

        @app.before_request
        def start() -> None:
            if not started.is_set() and not app.testing:
                started.set()
                _drain_with_worker(state.bridge)
                threading.Thread(target=_start, args=[server], name="pushsvc-start", daemon=True).start()

        @app.teardown_appcontext
        def flush_job(_: BaseException | None) -> None:
            # A worker of RQ and a child of multiprocessing end without the functions of atexit.
            if g.pop(_BUFFERED, False):
                state.publisher.await_first_start(_LAST_FLUSH)
                if not state.publisher.flush(_LAST_FLUSH):
                    log.warning("the job has ended, and events of it wait for Redis")

    def authorize(self, function: A) -> A:
        """Register the function that decides over a request, as a decorator.

        It is called in the context of the request with an action (``"subscribe"``, ``"publish"`` or ``"manage"``), a
        topic or a pattern, and the key that the request is limited to, or None for all keys. It returns True, False, or
        a Grants object, or calls ``abort()``. Nothing is served that it has not allowed. A stream asks again every 5
        minutes.
        """
        if self._authorize is not None:
            raise RuntimeError("there is a function to authorize already")
        self._authorize = function
        return function

    # Publishing

    def publish(
        self, topic: str, event: Events | None = None, *, type: str | None = None, key: str | None = None,
        id: str | None = None, html: str | None = None, wait: bool = False, on_error: OnError | None = None,
        timeout: float | None = None,
    ) -> dict[str, Any] | None:  # fmt: skip
        """Publish an event, or several, in the context of an application.

        Without ``wait`` the events are buffered and None is returned after some microseconds; ``wait=True`` returns the
        receipt. ``on_error`` says what happens when Redis is away: ``"buffer"``, the default, keeps up to 10,000 events
        or 8 MB, ``"drop"`` loses the events, ``"raise"``, the default with ``wait``, waits for the receipt and raises
        ClientError. No call waits longer than ``timeout`` seconds, by default 1 s; in a job, which has no request, the
        default also includes the first start of the server. ``type``, ``key`` and ``id`` are attributes of a single
        event, ``html`` is a field of it: a stream with ``data=html`` has this text as its data. Raise InvalidValue for
        what JSON cannot hold and for no events at all, and BufferFull.
        """
        on_error = on_error or ("raise" if wait else "buffer")
        if on_error not in ("raise", "drop", "buffer"):
            raise ValueError(f"on_error={on_error!r}: 'raise', 'drop' or 'buffer' is expected")
        publisher = self._state().publisher
        check_topic(topic)
        given = {"type": type, "key": key, "id": id, FIELD: None if html is None else str(html)}
        attributes = {name: value for name, value in given.items() if value is not None}
        if attributes or event is None:
            if event is None and html is None:
                raise TypeError("an event or html is expected")
            if event is not None and not isinstance(event, Mapping):
                raise TypeError(f"{', '.join(attributes)}: only a single event, a mapping, can have attributes here")
            event = {**(event or {}), **attributes}
        if not wait and on_error != "raise":
            publisher.put(topic, event, _TIMEOUT if timeout is None else timeout, kept=on_error == "buffer")
            if not has_request_context():
                setattr(g, _BUFFERED, True)
            return None
        if timeout is None and not has_request_context():
            publisher.await_first_start(_TIMEOUT)
        return publisher.send(topic, event, _TIMEOUT if timeout is None else timeout, on_error)

    def progress(
        self, topic: str, total: float | None = None, *, key: str = "progress", every: float = 0.5, **fields: Any
    ) -> JobProgress:
        """Return what publishes the progress of a job to a topic such as ``job.42``, at most every ``every`` seconds.

        ``with push.progress("job.42", total=n) as progress:`` and ``progress.advance()`` for each step. The last event
        has the state ``done``, ``failed`` or ``cancelled``. ``fields`` are members of all events.
        """
        state = self._state()
        publisher = state.publisher
        check_topic(topic)

        def send(event: dict[str, Any]) -> None:
            try:
                publisher.put(topic, event, _PROGRESS, kept=True)
            except BufferFull as error:
                raise ClientError(error.detail, temporary=True) from None
            with suppress(ServerUnavailable):
                state.server.start()  # the first time this may take longer
            if not publisher.flush(_PROGRESS):  # the process may end without a flush, as a worker of RQ does
                raise ClientError("the event waits for Redis", temporary=True)

        def report(reason: str | None) -> None:
            if reason is not None:
                log.warning("progress of %s: %s", topic, reason)

        return JobProgress(send, total, key=key, every=every, fields=fields, on_outage=report)

    def stream_url(
        self, topic: str, *, resource: str = "events", key: str | None = None, html: bool = False,
        token: bool = False, lifetime: float = 600.0, **query: Any,
    ) -> str:  # fmt: skip
        """Return the URL of a stream of a topic or a pattern: of its ``events``, ``stats`` or ``latest``.

        ``html`` makes the HTML of events the data of messages. ``token`` adds one that grants this stream for
        ``lifetime`` seconds to everybody who has the URL: for pages that cookies do not reach. ``query`` holds further
        parameters. The Jinja global ``stream_url`` is the same.
        """
        self._state()
        check_pattern(topic)
        if resource not in RESOURCES:
            raise ValueError(f"resource={resource!r}: one of {', '.join(sorted(RESOURCES))} is expected")
        given = {"key": key, "data": FIELD if html else None}
        query |= {name: value for name, value in given.items() if value is not None}
        if token:
            query[PARAMETER] = sign(cast("Any", current_app)._get_current_object(), Asked(topic, key), lifetime)
        if is_pattern(topic):
            if resource not in ("events", "stats"):
                raise ValueError(f"{resource} is of one topic, and {topic} is a pattern")
            query[resource] = topic
            return url_for(f"{_BLUEPRINT}.stream", **query)
        return url_for(f"{_BLUEPRINT}.topic_resource", topic=topic, resource=resource, **query)

    def flush(self, timeout: float = 10.0) -> bool:
        """Return whether all buffered events of the application were published within ``timeout`` seconds."""
        return self._state().publisher.flush(timeout)

    def _state(self) -> _State:
        state: _State | None = current_app.extensions.get(EXTENSION)
        if state is None:
            raise RuntimeError("the application has no pushsvc: call push.init_app(app)")
        return state

    # Requests

    def _blueprint(self, state: _State, url_prefix: str) -> Blueprint:
        blueprint = Blueprint(_BLUEPRINT, __name__, cli_group="push")
        add_commands(blueprint, state.settings, url_prefix)

        @blueprint.route("/v1/topics/<topic>/<path:resource>", methods=_METHODS, provide_automatic_options=False)
        def topic_resource(topic: str, resource: str) -> Response:
            path = f"/v1/topics/{quote(topic, safe='')}/{resource}"
            asked_for = request.headers.get("Access-Control-Request-Method", "GET")
            method = asked_for if request.method == "OPTIONS" else request.method
            if resource.startswith("events/"):
                if method not in ("PATCH", "DELETE"):
                    abort(405)
                path = f"/v1/topics/{quote(topic, safe='')}/events/{quote(resource[7:], safe='')}"
                return self._answer(state, path, lambda: of_management(topic))
            if not is_served(method, resource):
                abort(405 if is_served("GET", resource) else 404)
            return self._answer(state, path, lambda: of_topic(request, topic))

        @blueprint.route("/v1/stream", methods=["GET", "OPTIONS"], provide_automatic_options=False)
        def stream() -> Response:
            return self._answer(state, "/v1/stream", lambda: of_stream(request))

        @blueprint.get("/client.js")
        def client() -> Response:
            return send_from_directory(str(files("pushsvc.web") / "static"), "client.js")

        self._add_management(blueprint, state)
        blueprint.register_error_handler(PushError, _refuse)

        @blueprint.after_request
        def add_headers(response: Response) -> Response:
            for name, value in state.security.headers(request.headers.get("Origin")):
                if name == "Vary":
                    response.vary.add(value)
                else:
                    response.headers.setdefault(name, value)
            return response

        return blueprint

    def _add_management(self, blueprint: Blueprint, state: _State) -> None:
        @blueprint.route("/v1/topics/<topic>", methods=["DELETE", "OPTIONS"], provide_automatic_options=False)
        def delete_topic(topic: str) -> Response:
            return self._answer(state, f"/v1/topics/{quote(topic, safe='')}", lambda: of_management(topic))

        @blueprint.route("/v1/alerts", methods=["GET", "OPTIONS"], provide_automatic_options=False)
        def alerts() -> Response:
            return self._answer(state, "/v1/alerts", lambda: of_alerts(request))

        @blueprint.route(
            "/v1/alerts/<name>", methods=["GET", "PUT", "DELETE", "OPTIONS"], provide_automatic_options=False
        )
        def alert(name: str) -> Response:
            # The hub knows the topic of an alert, and takes no parameter here.
            return self._answer(
                state, f"/v1/alerts/{quote(name, safe='')}", lambda: of_alerts(request), without="topic"
            )

    def _answer(self, state: _State, path: str, question: Callable[[], Question], *, without: str = "") -> Response:
        in_front = state.server if isinstance(state.server, ServerInFront) else None
        if in_front is not None and not answers_questions():
            # A spelling of the path that the server in front did not take: a stream would hold a thread.
            if request.script_root != _root(current_app):
                log.error("streams under %s need APPLICATION_ROOT = %r", request.script_root, request.script_root)
            abort(404)
        as_html = _wants_html()
        query = [one for one in request.args.items(multi=True) if one[0] not in _OURS and one[0] != without]
        query += [("format", "sse")] if as_html and "format" not in request.args else []
        path = f"{path}?{urlencode(query)}" if query else path
        if request.method == "OPTIONS":
            return state.bridge.answer(request, path, None)
        if request.method in _WRITES:
            _check_origin(state.security)
        grants = self._grants(state, question())
        if in_front is not None:
            token, expires = in_front.signer.sign(grants)
            return Response(Granted(path, token, expires, as_html).encode(), content_type=GRANTED)
        return state.bridge.answer(request, path, grants, as_html=as_html)

    def _grants(self, state: _State, question: Question) -> Grants:
        """Return what the present request is granted. Raise MissingToken, NotGranted or Forbidden."""
        if PARAMETER in request.args:
            return grants_of(current_app, request.args[PARAMETER], question)
        if self._authorize is None:
            _check_local(state.security)
            return EVERYTHING
        grants = NOTHING
        for asked in question.asked:
            place = question.places.get(asked)
            with nullcontext() if place is None else _refused_at(place):
                answer = self._granted(question.action, *asked)
            if question.action is Action.MANAGE:
                return replace(answer, publish=answer.publish | answer.manage)
            grants = _united(grants, answer)
        return grants

    def _granted(self, action: Action, topic: str, key: str | None) -> Grants:
        """Return what the function grants of one topic. Raise MissingToken, NotGranted, or what it raises."""
        assert self._authorize is not None
        answer = self._authorize(action.value, topic, key)
        if inspect.isawaitable(answer):
            raise TypeError("the function to authorize is asynchronous, and a plain one is expected")
        if answer is None or answer is False:
            raise _refusal()
        if answer is True:
            keys = None if key is None else frozenset([key])
            return _granted(action, TopicGrants([Grant(topic, keys)]))
        if not isinstance(answer, Grants):
            raise TypeError(f"the function to authorize returned {answer!r}: True, False or Grants are expected")
        _check_grants(answer)
        if not answer.of(action).may_some(topic):
            raise _refusal()
        return answer


@contextmanager
def _refused_at(place: str) -> Iterator[None]:
    """Let a refusal name the place of the subscription, so that the client ends this one alone."""
    with at_place(place):
        try:
            yield
        except Unauthorized as error:
            raise MissingToken(error.description or "the application asks for a login") from None
        except WerkzeugForbidden as error:
            raise NotGranted(error.description or "the application does not grant this") from None


def _root(app: Flask) -> str:
    """Return the path below which an application is mounted; empty at the root."""
    return str(app.config["APPLICATION_ROOT"]).rstrip("/")


def _wants_html() -> bool:
    """Return whether the present request asks for the HTML of events. Raise InvalidParameter."""
    asked = request.args.getlist("data")
    if not asked:
        return False
    if asked != [FIELD] or request.args.get("format", "sse") != "sse":
        raise InvalidParameter("data", "only html is expected, and it goes with a stream of events")
    return True


def _check_grants(grants: Grants) -> None:
    """Raise TypeError for grants that the push server cannot read.

    The server would answer that the token is not valid, although the application is at fault.
    """
    try:
        read_grants(claim_of(grants))
    except (InvalidGrants, TypeError) as error:
        raise TypeError(f"the function to authorize returned {grants!r}: {error}") from None
    if not isinstance(grants.subject, str):
        raise TypeError(f"the function to authorize returned the subject {grants.subject!r}: a text is expected")


def _granted(action: Action, topics: TopicGrants) -> Grants:
    if action is Action.MANAGE:
        # A correction is published; and who may end an alert may see it.
        return Grants(publish=topics, subscribe=topics, manage=topics)
    return Grants(publish=topics) if action is Action.PUBLISH else Grants(subscribe=topics)


def _united(one: Grants, other: Grants) -> Grants:
    """Return the grants of both, until the first of them expires. A request of several topics manages none."""
    if one.subject and other.subject and one.subject != other.subject:
        raise ValueError(f"the grants of one request have two subjects: {one.subject!r} and {other.subject!r}")
    limits = [limit for limit in (one.connections, other.connections) if limit is not None]
    return replace(
        other.plus(one), manage=TopicGrants(), subject=one.subject or other.subject,
        connections=min(limits, default=None), expires=min(one.expires, other.expires),
    )  # fmt: skip


def _refusal() -> MissingToken | NotGranted:
    """Return the error for a request that is not allowed: a login may help one without credentials."""
    if request.cookies or "Authorization" in request.headers:
        return NotGranted("the application does not grant this")
    return MissingToken("the application grants this to nobody without a login")


def _check_local(security: Security) -> None:
    """Refuse a request of another machine, or to another name: without a function to authorize nobody else may."""
    address = address_of(request)
    if address is None or not address.is_loopback:
        raise Forbidden(_ONLY_LOCAL)
    try:
        security.check_host(request.host)
    except Forbidden:  # its text names an option that an application does not have
        raise Forbidden(f"{_ONLY_LOCAL}, and by the name localhost, not {request.host!r}") from None


def _check_origin(security: Security) -> None:
    """Refuse a write that a page of another site makes a browser send with its reader's cookies."""
    security.check_origin(request)
    if request.cookies and request.headers.get("Sec-Fetch-Site") == "cross-site":
        raise Forbidden("a page of another site may not write with cookies")


def _refuse(error: PushError) -> Response:
    return problem_of(error, f"{request.method} {request.path}").to_flask()


def _start(server: PushServer) -> None:
    try:
        server.start()
    except ServerUnavailable as error:
        log.error("pushsvc: %s", error.detail)


# The process

_states: weakref.WeakSet[Publisher] = weakref.WeakSet()


def _flush_all() -> None:
    for publisher in list(_states):
        publisher.close(_LAST_FLUSH)


def _after_fork() -> None:
    for publisher in list(_states):
        publisher.after_fork()


atexit.register(_flush_all)  # before the servers stop: the last that is registered is called first
os.register_at_fork(after_in_child=_after_fork)


def _drain_with_worker(bridge: Bridge) -> None:
    """End the streams when gunicorn ends its worker: else it waits for them until its own timeout and cuts them."""
    before = signal.getsignal(signal.SIGTERM)
    if not type(getattr(before, "__self__", None)).__module__.startswith("gunicorn.workers"):
        if not isinstance(before, _Drain):
            return
        before.bridges.add(bridge)
        return
    assert callable(before)
    with suppress(ValueError):  # not in the main thread: then the worker waits
        drain = _Drain(before)
        drain.bridges.add(bridge)
        signal.signal(signal.SIGTERM, drain)


class _Drain:
    """A handler of SIGTERM that ends streams, and then calls the one that was there."""

    def __init__(self, before: Callable[[int, FrameType | None], Any]) -> None:
        self._before = before
        self.bridges: weakref.WeakSet[Bridge] = weakref.WeakSet()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        for bridge in list(self.bridges):
            bridge.drain()
        self._before(number, frame)
