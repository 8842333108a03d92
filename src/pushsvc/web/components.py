"""``/v1/components``: how far the groups of components are."""

from __future__ import annotations

from flask import Blueprint, Response, request

from pushsvc.auth.grants import Action
from pushsvc.components.status import visible_groups
from pushsvc.errors import NotGranted
from pushsvc.topic import check_topic
from pushsvc.web.authorization import granted
from pushsvc.web.context import Context
from pushsvc.web.long_requests import client_of
from pushsvc.web.parameters import Parameters
from pushsvc.web.responses import json_response


def blueprint(context: Context) -> Blueprint:
    resource = Blueprint("components", __name__, url_prefix="/v1/components")

    @resource.get("")
    def list_groups() -> Response:
        topic = Parameters(request.args, ("topic",)).text("topic")
        grants = granted()

        def manages(name: str) -> bool:
            return grants.keys(Action.MANAGE, name) is None

        if topic is not None and not manages(check_topic(topic)):
            raise NotGranted("the groups of a topic are shown to those that manage all of its keys")
        with context.long.reading(client_of(request)) as pause:
            totals = grants.may_all(Action.MANAGE)
            found = visible_groups(context.broker, topic, manages, totals=totals, pause=pause)
        return json_response({"groups": found})

    return resource
