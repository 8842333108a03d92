"""Asks the credentials of each request what it may do. A route that has no rule here is refused."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from flask import Flask, Request, Response, g, request
from werkzeug.datastructures import ImmutableMultiDict, MultiDict

from pushsvc.auth.access import NO_CREDENTIALS, Access, Presented
from pushsvc.auth.grants import EVERYTHING, NOTHING, Action, Grants
from pushsvc.errors import MissingToken, NotGranted, Unavailable
from pushsvc.hub.messages import farewell
from pushsvc.system_clock import now_ms
from pushsvc.web.application import Application, Question
from pushsvc.web.long_requests import client_of
from pushsvc.web.responses import ended_stream, wants_stream
from pushsvc.web.subscription import named_topics

COOKIE = "__Host-pushsvc"
PARAMETER = "token"

_ACTIONS = {"POST": Action.PUBLISH, "PUT": Action.MANAGE, "PATCH": Action.PUBLISH, "DELETE": Action.MANAGE}

Rule = Callable[[Grants, Mapping[str, str]], bool]
"""Returns whether grants allow a request with these parts of its path."""


def _topic(action: Action) -> Rule:
    return lambda grants, parts: grants.may(action, parts["topic"])


def _whole_topic(action: Action) -> Rule:
    return lambda grants, parts: grants.keys(action, parts["topic"]) is None


def _some_topics(grants: Grants, _parts: Mapping[str, str]) -> bool:
    return bool(grants.subscribe)


def _some_alerts(grants: Grants, _parts: Mapping[str, str]) -> bool:
    return bool(grants.subscribe or grants.manage)


def _manage_some(grants: Grants, _parts: Mapping[str, str]) -> bool:
    return bool(grants.manage)


def _manage_all(grants: Grants, _parts: Mapping[str, str]) -> bool:
    return grants.may_all(Action.MANAGE)


def _open(_grants: Grants, _parts: Mapping[str, str]) -> bool:
    return True


RULES: Mapping[str, Rule] = {
    "events.post": _topic(Action.PUBLISH),
    "events.read": _topic(Action.SUBSCRIBE),
    "corrections.show": _topic(Action.SUBSCRIBE),  # the views check the key of the event
    "corrections.patch": _topic(Action.PUBLISH),
    "corrections.delete": _topic(Action.PUBLISH),
    "stats.read": _topic(Action.SUBSCRIBE),
    "series.read": _topic(Action.SUBSCRIBE),  # the view checks the key
    "latest.read": _topic(Action.SUBSCRIBE),
    "topics.metadata": _topic(Action.SUBSCRIBE),
    "topics.delete": _whole_topic(Action.MANAGE),
    "topics.list_topics": _some_topics,  # the list has those that the request may see
    "stream.watch": _some_topics,  # the view checks the topics, which are in the query
    "alerts.list_alerts": _some_alerts,  # the views leave out what the request may not see
    "alerts.read": _some_alerts,
    "alerts.define": _manage_some,  # the views check the topics of the alert, before and after
    "alerts.remove": _manage_some,
    "components.list_groups": _manage_some,  # the view leaves out topics whose keys it does not manage all
    "health.metrics": _manage_all,
    "sessions.revoke": _manage_all,
    "health.livez": _open,
    "health.readyz": _open,
    "session.show": _open,
    "session.sign_in": _open,
    "session.sign_out": _open,
    "pages.dashboard": _open,
    "pages.docs": _open,
    "pages.viewer": _open,
    "pages.openapi": _open,
    "pages.client": _open,
    "static": _open,
}


def refusal(presented: Presented) -> MissingToken | NotGranted:
    """Return the error for a request without a grant: credentials may help one that has presented none."""
    found: MissingToken | NotGranted | None = g.get("refusal")
    if found is not None:
        return found  # in the words of the application
    if presented == NO_CREDENTIALS:
        return MissingToken("a token or key is needed, as in Authorization: Bearer TOKEN")
    return NotGranted("the token or key does not grant this")


def install(app: Flask, access: Access | None, application: Application | None = None) -> None:
    """Refuse what is not granted. Without ``access`` everything is. ``application`` is asked about requests without
    credentials that ``access`` verifies."""
    if access is None:
        return

    @app.before_request
    def check() -> Response | None:
        g.grants = NOTHING
        if request.endpoint is None:
            return None  # there is no such route, or not with this method
        if RULES.get(request.endpoint) is _open:
            return None  # without a look at credentials: an expired cookie must not hide the page to sign in
        presented = presented_by(request)
        try:
            if application is None or access.decides(presented):
                grants = access.grants(presented, now_ms() / 1_000)
            else:
                grants, g.refusal = _asked(application, access, request)
        except Unavailable as error:  # a browser would give a stream up for good
            if wants_stream():
                return ended_stream(farewell(error.title))
            raise
        g.grants = grants
        rule = RULES.get(request.endpoint)
        if rule is None or not rule(grants, request.view_args or {}):
            raise refusal(presented)
        if presented.parameter is not None:  # the routes know no such parameter
            request.args = ImmutableMultiDict(one for one in request.args.items(multi=True) if one[0] != PARAMETER)
        return None

    @app.after_request
    def keep_private(response: Response) -> Response:
        """Let no shared cache answer others with what these credentials may see."""
        if g.get("grants", NOTHING) is not NOTHING and not response.cache_control.no_store:
            response.cache_control.private = True
            response.vary.update(("Authorization", "Cookie"))
        return response


def _asked(application: Application, access: Access, request: Request) -> tuple[Grants, MissingToken | NotGranted]:
    """Return what a request may do after the application was asked, and the error for all else. Raise Unavailable."""
    if request.method in _ACTIONS and request.cookies and request.headers.get("Sec-Fetch-Site") == "cross-site":
        # The browser adds cookies by itself, so they do not show that their owner wants the write.
        raise NotGranted("a page of another site may not write with cookies")
    action = _ACTIONS.get(request.method, Action.SUBSCRIBE)
    if request.endpoint == "corrections.delete":
        action = Action.PUBLISH
    if RULES.get(request.endpoint or "") in (_manage_all, _manage_some):
        action = Action.MANAGE
    topic = (request.view_args or {}).get("topic")
    named = [topic] if topic is not None else _named_topics(request.args)
    sent = [(name, request.headers[name]) for name in application.headers if name in request.headers]
    question = Question(action, tuple(named), client_of(request).address, tuple(sent))
    try:
        grants = application.grants(question, access.revocations.refuses)
    except (MissingToken, NotGranted) as refused:
        return access.anonymous, refused
    access.check_current(grants, now_ms() / 1_000)
    return grants.plus(access.anonymous), NotGranted("the application does not grant this")


def _named_topics(args: MultiDict[str, str]) -> list[str]:
    return [*args.getlist("events"), *args.getlist("stats"), *named_topics(args.getlist("sub"))]


def granted() -> Grants:
    """Return what the present request may do."""
    grants: Grants = g.get("grants", EVERYTHING)
    return grants


def check_granted(grants: Grants, name: str, *, pattern: bool = False) -> None:
    """Refuse a topic without a grant to subscribe, or a pattern that no granted topic can match."""
    if not (grants.may_some(Action.SUBSCRIBE, name) if pattern else grants.may(Action.SUBSCRIBE, name)):
        raise refusal(presented_by(request))


def presented_by(request: Request) -> Presented:
    """Return the credentials of a request."""
    headers = request.headers.getlist("Authorization")
    found = Presented(None, request.cookies.get(COOKIE), request.args.get(PARAMETER))
    # Two of them would let a proxy and us see different ones.
    return replace(found, authorization=", ".join(headers)) if headers else found
