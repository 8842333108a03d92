"""``/livez``, ``/readyz`` and ``/metrics``."""

import logging

from flask import Blueprint, Response, request

from pushsvc.errors import PushError
from pushsvc.metrics import CONTENT_TYPE, exposition
from pushsvc.web.context import Context
from pushsvc.web.parameters import Parameters
from pushsvc.web.responses import json_response

log = logging.getLogger(__name__)


def blueprint(context: Context) -> Blueprint:
    resource = Blueprint("health", __name__)

    @resource.get("/livez")
    def livez() -> Response:
        """Whether the process works. If not, only a restart helps."""
        Parameters(request.args, ())
        healthy = context.hub.healthy
        return json_response({"status": "ok" if healthy else "dead"}, 200 if healthy else 503)

    @resource.get("/readyz")
    def readyz() -> Response:
        """Whether the process can store events and receives those of others."""
        Parameters(request.args, ())
        redis = _reaches_redis(context)
        live = redis and context.hub.wait_up(1.0)
        checks = {"redis": "ok" if redis else "not reachable", "live": "ok" if live else "not connected"}
        ready = not context.hub.draining and all(state == "ok" for state in checks.values())
        response = json_response({"status": "ready" if ready else "not ready", **checks}, 200 if ready else 503)
        if not ready:
            response.headers["Retry-After"] = "2"
        return response

    resource.get("/metrics")(metrics)

    return resource


def metrics() -> Response:
    Parameters(request.args, ())
    return Response(exposition(), content_type=CONTENT_TYPE)


def _reaches_redis(context: Context) -> bool:
    try:
        context.broker.ping()
    except PushError as error:
        log.warning("not ready: %s", error.detail)
        return False
    return True
