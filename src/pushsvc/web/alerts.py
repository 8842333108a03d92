"""``/v1/alerts``: what is watched, and what is raised."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import orjson
from flask import Blueprint, Response, request

from pushsvc.alerts.rule import ALERTS_TOPIC, AlertRule, InvalidAlert, check_rule, read_rule
from pushsvc.auth.grants import Action, Grants
from pushsvc.broker.alerts import StoredState, conditions_of
from pushsvc.broker.keys import Log
from pushsvc.clock import format_time
from pushsvc.errors import FixedAlert, InvalidDefinition, NoAlert, NotGranted, TooLarge, UnsupportedMediaType
from pushsvc.topic import check_topic, partition_of
from pushsvc.web.authorization import granted
from pushsvc.web.context import Context
from pushsvc.web.parameters import Parameters
from pushsvc.web.responses import json_response

_BODY = 10_000  # bytes of a definition
_STATES = 1_000  # rows of an alert that an answer has

Stored = Mapping[str, Mapping[str | None, StoredState]]


def blueprint(context: Context) -> Blueprint:
    resource = Blueprint("alerts", __name__, url_prefix="/v1/alerts")

    @resource.get("")
    def list_alerts() -> Response:
        topic = Parameters(request.args, ("topic",)).text("topic")
        if topic is not None:
            check_topic(topic)
        grants = granted()
        rules = [rule for rule in _rules(context).values() if topic in (None, rule.topic) and _sees(grants, rule)]
        stored = _states(context, rules)
        return json_response({"alerts": [_described(context, rule, stored, grants) for rule in rules]})

    @resource.get("/<name>")
    def read(name: str) -> Response:
        Parameters(request.args, ())
        rule = _rules(context).get(name)
        if rule is None or not _sees(granted(), rule):
            raise _no_alert(name)
        return json_response(_described(context, rule, _states(context, [rule]), granted()))

    @resource.put("/<name>")
    def define(name: str) -> Response:
        Parameters(request.args, ())
        rule = _read_body(context, name)
        _check_manages(granted(), rule)
        if name in context.alerts:
            raise _fixed(name)
        before = context.broker.alerts.definitions().get(name)
        if before is not None:
            _check_manages(granted(), before)
        replaced = context.broker.alerts.define(_begun(context, rule, before))
        return json_response(_described(context, rule, _states(context, [rule]), granted()), 200 if replaced else 201)

    @resource.delete("/<name>")
    def remove(name: str) -> Response:
        Parameters(request.args, ())
        rule = _rules(context).get(name)
        if rule is None or not _sees(granted(), rule):
            raise _no_alert(name)
        _check_manages(granted(), rule)
        if name in context.alerts:
            raise _fixed(name)
        if not context.broker.alerts.remove(name):
            raise _no_alert(name)
        return Response(status=204)

    return resource


def _begun(context: Context, rule: AlertRule, before: AlertRule | None) -> AlertRule:
    """Return a rule that, if it is about events, begins where the log ends, or where the same one ``before`` did."""
    if not rule.is_of_events:
        return rule
    if before is not None and before.is_same_condition(rule):
        return replace(rule, after=before.after)
    [log] = context.broker.metadata([Log(rule.topic)])
    return replace(rule, after=int(log.get("last", 0)))


def _no_alert(name: str) -> NoAlert:
    return NoAlert(f"there is no alert {name[:100]!r}")


def _fixed(name: str) -> FixedAlert:
    return FixedAlert(f"the alert {name!r} is in the settings of the server, where alone it can be changed")


def _rules(context: Context) -> dict[str, AlertRule]:
    """Return all alerts by name, in the order of their names."""
    return dict(sorted({**context.broker.alerts.definitions(), **context.alerts}.items()))


def _read_body(context: Context, name: str) -> AlertRule:
    """Return the alert of the present request. Raise InvalidDefinition, TooLarge or UnsupportedMediaType."""
    if request.mimetype not in ("application/json", "application/x-www-form-urlencoded", ""):
        raise UnsupportedMediaType(f"{request.mimetype!r} cannot be read here: an alert is application/json")
    if (request.content_length or 0) > _BODY or len(body := request.stream.read(_BODY + 1)) > _BODY:
        raise TooLarge(f"an alert has at most {_BODY} bytes")
    try:
        table = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidDefinition("body", f"no JSON: {error}") from None
    if not isinstance(table, dict):
        raise InvalidDefinition("body", 'an object is expected, such as {"topic": "orders", "when": "count(5m) > 10"}')
    if table.pop("name", name) != name:
        raise InvalidDefinition("name", "it differs from the name in the URL")
    try:
        rule = read_rule(name, table)
        check_rule(rule, context.rules.settings_of(rule.topic))
        if rule.webhook is not None:
            context.webhooks.check(rule.webhook)
    except InvalidAlert as error:
        raise InvalidDefinition(error.member, str(error), error.fault) from None
    return rule


def _manages(grants: Grants, rule: AlertRule) -> bool:
    return grants.keys(Action.MANAGE, rule.topic) is None


def _check_manages(grants: Grants, rule: AlertRule) -> None:
    if not _manages(grants, rule):
        raise NotGranted(f"an alert needs manage for all keys of its topic, {rule.topic}")


def _sees(grants: Grants, rule: AlertRule) -> bool:
    return _sees_states(grants, rule) or _manages(grants, rule)


def _sees_states(grants: Grants, rule: AlertRule) -> bool:
    """Return whether grants show keys and values: those of all keys of the topic, or of the alert's key in the topic of
    alerts. A grant of some keys does not: the values are about others, too."""
    keys = grants.keys(Action.SUBSCRIBE, ALERTS_TOPIC)
    return keys is None or rule.name in keys or grants.keys(Action.SUBSCRIBE, rule.topic) is None


def _states(context: Context, rules: Iterable[AlertRule]) -> Stored:
    """Return the states of the rows of rules, as far as they are not just ok."""
    found: dict[str, dict[str | None, StoredState]] = {}
    by_partition: dict[int, list[AlertRule]] = {}
    for rule in rules:
        by_partition.setdefault(partition_of(rule.topic), []).append(rule)
    for partition, own in by_partition.items():
        states = context.broker.alerts.load(partition).states
        for rule in own:
            rows = states.get(rule.name, {})
            found[rule.name] = {row: one for row, one in rows.items() if one.rule == conditions_of(rule)}
    return found


def _described(context: Context, rule: AlertRule, stored: Stored, grants: Grants) -> dict[str, Any]:
    described = rule.public() | {"fixed": rule.name in context.alerts}
    if not _manages(grants, rule):
        described["webhook"] = None  # its path may be a secret
    if not _sees_states(grants, rule):
        return described | {"states": None}
    if rule.is_of_events:
        return described | {"states": []}
    rows = stored.get(rule.name, {})
    if rule.by is None:
        rows = {None: rows.get(None, StoredState("ok", 0))}
    else:
        rows = {row: one for row, one in rows.items() if one.state != "ok"}
    states = [
        {
            "row": row,
            "state": one.state,
            "since": format_time(one.since) if one.since else None,
            "value": one.value,
        }
        for row, one in sorted(rows.items(), key=lambda item: (item[1].state != "raised", item[1].since))[:_STATES]
    ]
    return described | {"states": states} | ({"more": len(rows) - _STATES} if len(rows) > _STATES else {})
