"""Checks of the settings of alerts."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from pushsvc.alerts.rule import MOST_ALERTS, AlertRule, InvalidAlert, read_rule
from pushsvc.alerts.webhook import read_secret
from pushsvc.errors import InvalidSetting

SECRET_VARIABLE = "PUSHSVC_WEBHOOK_SECRET"  # noqa: S105 - its name

_HOST = re.compile(r"\*|(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*|[0-9a-f:]+", re.ASCII)


def rule_of(table: Mapping[str, Any]) -> AlertRule:
    """Return the alert of a table; raise InvalidAlert."""
    return read_rule(table.get("name"), {name: value for name, value in table.items() if name != "name"})


def alert_tables(value: Any) -> tuple[dict[str, str], ...]:
    """Return the tables of alerts; raise ValueError."""
    if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
        raise ValueError('must be tables [[alerts]] with a name, a topic and when = "count(5m) > 10"')
    if len(value) > MOST_ALERTS:
        raise ValueError(f"must be at most {MOST_ALERTS}")
    names: set[str] = set()
    for place, table in enumerate(value, 1):
        try:
            rule = rule_of(table)
        except InvalidAlert as error:
            raise ValueError(f"number {place}: {error.member}: {error}") from None
        if rule.name in names:
            raise ValueError(f"number {place}: the name {rule.name!r} is there twice")
        names.add(rule.name)
    return tuple(dict(table) for table in value)


def webhook_host(value: Any) -> str:
    """Return a host, or a pattern of hosts; raise ValueError."""
    host = str(value).lower().strip("[]")
    if not _HOST.fullmatch(host):
        raise ValueError(f"{value!r} must be a host, such as hooks.example.com, *.example.com or *")
    return host


def take_secret_variable() -> str | None:
    """Return the secret of webhooks in the environment, and remove it there. Raise InvalidSetting."""
    secret = secret_in(os.environ)
    os.environ.pop(SECRET_VARIABLE, None)
    return secret


def secret_in(environment: Mapping[str, str]) -> str | None:
    """Return the secret of webhooks in an environment. Raise InvalidSetting."""
    value = environment.get(SECRET_VARIABLE)
    try:
        return webhook_secret(value) if value else None
    except ValueError as error:
        raise InvalidSetting(f"{SECRET_VARIABLE}: {error}") from None


def webhook_secret(value: Any) -> str:
    """Return the secret that signs webhooks; raise ValueError."""
    if not isinstance(value, str):
        raise ValueError("must be text in quotes")
    read_secret(value)
    return value
