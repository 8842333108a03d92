"""Reads the settings of the extension: ``app.config["PUSHSVC_..."]``, the environment, then ``pushsvc.toml``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pushsvc.cli.options import from_environment
from pushsvc.config import Settings, load
from pushsvc.config.alerts import secret_in
from pushsvc.config.checks import SETTINGS, SettingFault, check_table
from pushsvc.errors import InvalidSetting
from pushsvc.supervisor.served import served

PREFIX = "PUSHSVC_"

_ENVIRONMENT = (
    "redis", "redis_username", "redis_password_file", "redis_ca_file", "redis_cert_file", "redis_key_file", "prefix",
    "data_dir", "maxmemory", "workers", "aggregators", "allow_host", "allow_origin", "allow_read_origin",
    "allow_write_origin", "ack", "heartbeat", "drain", "watchdog", "wait", "io_uring", "max_connections", "log_format",
    "log_level", "webhook_hosts",
)  # fmt: skip
NAMES = frozenset({*_ENVIRONMENT, "alerts", "limits", "topics", "webhook_secret"})
"""The settings that an application may have. The other ones concern a server that clients reach directly."""


def names_in(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return which settings the configuration of an application has."""
    return tuple(name for name in NAMES if config.get(PREFIX + name.upper()) is not None)


def settings_of(config: Mapping[str, Any]) -> Settings:
    """Return the settings in the configuration of an application. Raise InvalidSetting or StartupError.

    A value None counts as none: ``os.environ.get`` returns it for a variable that is not set.
    Without ``redis`` or an own number, an aggregator runs; with ``redis`` the aggregators are processes of their own.
    Behind ``pushsvc serve --app`` its settings count in place of the environment and the file.
    """
    own = {
        name[len(PREFIX) :].lower(): value
        for name, value in config.items()
        if name.startswith(PREFIX) and value is not None
    }
    file = own.pop("config", None)
    for name in own:
        if name in SETTINGS and name not in NAMES:
            raise InvalidSetting(f"{PREFIX}{name.upper()}: an application cannot set this: its own server listens")
    try:
        checked = check_table(own, {name: check for name, check in SETTINGS.items() if name in NAMES})
    except SettingFault as error:
        name, *inside = error.path
        where = ".".join([PREFIX + name.upper(), *inside])
        raise InvalidSetting(f"app.config: {where}: {error}") from None
    in_front = served()
    if in_front is not None:
        if file is not None:
            raise InvalidSetting(f"{PREFIX}CONFIG: pushsvc serve reads the file: name it with --config")
        return replace(in_front.settings, **checked)
    options = {"webhook_secret": secret_in(os.environ)} | from_environment(*_ENVIRONMENT) | checked
    loaded = load(options, None if file is None else Path(file))
    settings = replace(Settings(), **{name: getattr(loaded, name) for name in NAMES})
    if "log_level" not in options and loaded.log_level == "info":
        settings = replace(settings, log_level="warning")
    if settings.redis is not None and "aggregators" not in options:
        settings = replace(settings, aggregators=0)
    return replace(settings, data_dir=settings.data_dir.absolute())
