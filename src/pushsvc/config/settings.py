"""The settings of all processes, and the file that sets them."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from pushsvc.alerts.rule import InvalidAlert, check_rule
from pushsvc.alerts.webhook import AlertSettings, WebhookPolicy, read_secret
from pushsvc.config.alerts import rule_of
from pushsvc.config.checks import SETTINGS, SettingFault, check_table
from pushsvc.config.credentials import IssuerSettings
from pushsvc.config.toml_lines import line_of, with_position
from pushsvc.errors import InvalidSetting, StartupError
from pushsvc.event import Limits
from pushsvc.settings import Ack, TopicRules

_KEYS = ("jwt_key", "jwt_key_file", "jwt_jwks_url")  # one of them is set, or none
_PATHS = {
    "data_dir", "certfile", "keyfile", "jwt_key_file", "redis_password_file", "redis_ca_file", "redis_cert_file",
    "redis_key_file",
}  # fmt: skip
DEFAULT_FILE = Path("pushsvc.toml")  # the file in the working directory that is read if no other is named


@dataclass(frozen=True)
class Settings:
    """The settings of all processes.

    ``drain``, ``heartbeat`` and ``watchdog`` (0: off) are in seconds. Without ``redis``, an embedded server runs.
    ``maxmemory`` is in bytes: 0 means no limit, None half of the memory. ``certfile`` enables TLS; without ``keyfile``,
    it also has the key. 0 connections mean no limit. ``metrics_port`` has the metrics alone, without
    credentials. ``io_uring`` has an effect only if the kernel supports it. The settings ``redis_…`` complete the URL
    ``redis``. ``trusted_proxy`` are networks such as ``10.0.0.0/8``. ``jwt_key``, or one of the two beside it, makes
    the issuer with the other settings ``jwt_…``; ``issuers`` are further ones. ``keys`` are the tables of API keys,
    ``alerts`` those of alerts.
    Secrets are not shown by ``repr``.
    """

    redis: str | None = field(default=None, repr=False)  # may have a password
    redis_username: str | None = None
    redis_password_file: Path | None = None
    redis_ca_file: Path | None = None
    redis_cert_file: Path | None = None
    redis_key_file: Path | None = None
    prefix: str = "pushsvc:"
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    aggregators: int = 1
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = None
    data_dir: Path = Path("pushsvc-data")
    maxmemory: int | None = None
    allow_host: tuple[str, ...] = ()
    allow_origin: tuple[str, ...] = ()
    allow_read_origin: tuple[str, ...] = ()
    allow_write_origin: tuple[str, ...] = ()
    trusted_proxy: tuple[str, ...] = ()
    insecure: bool = False
    drain: int = 5
    watchdog: int = 10
    heartbeat: int = 15
    wait: bool = False
    ack: Ack = field(default_factory=Ack)
    certfile: Path | None = None
    keyfile: Path | None = None
    max_connections: int = 50_000
    max_connections_per_address: int = 1_000
    io_uring: bool = True
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    access_log: bool = False
    jwt_key: str | None = field(default=None, repr=False)
    jwt_key_file: Path | None = None
    jwt_alg: str | None = None
    jwt_issuer: str | None = None
    jwt_audience: tuple[str, ...] = ()
    jwt_jwks_url: str | None = None
    jwt_leeway: float = 10
    jwt_needs_expiry: bool = True
    issuers: tuple[IssuerSettings, ...] = ()
    keys: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)
    anonymous_publish: tuple[str, ...] = ()
    anonymous_subscribe: tuple[str, ...] = ()
    token_parameter: bool = False
    token_lifetime: int = 30 * 86_400
    authorize_url: str | None = None
    authorize_headers: tuple[str, ...] = ("cookie", "authorization")
    authorize_timeout: float = 2.0
    topics: TopicRules = field(default_factory=TopicRules)
    alerts: tuple[dict[str, str], ...] = ()
    webhook_hosts: tuple[str, ...] = ()
    webhook_secret: str | None = field(default=None, repr=False)
    limits: Limits = field(default_factory=Limits)

    @property
    def authorizes(self) -> bool:
        """Return whether requests are asked for credentials."""
        return bool(
            self.jwt_key or self.jwt_key_file or self.jwt_jwks_url or self.issuers or self.keys
            or self.anonymous_publish or self.anonymous_subscribe or self.authorize_url
        )  # fmt: skip

    @property
    def alert_settings(self) -> AlertSettings:
        """The alerts of the file, where webhooks may be sent, and what signs them."""
        secret = read_secret(self.webhook_secret) if self.webhook_secret else b""
        return AlertSettings(tuple(map(rule_of, self.alerts)), WebhookPolicy(self.webhook_hosts, secret))

    def without_keys(self) -> Settings:
        """Return the settings for a process that asks nobody for credentials."""
        return replace(
            self, jwt_key=None, jwt_key_file=None, jwt_jwks_url=None, issuers=(), keys={}, authorize_url=None
        )

    def encode(self) -> str:
        """Return all settings as text for a child process."""
        return msgspec.json.encode(self, enc_hook=str).decode()

    @classmethod
    def decode(cls, text: str) -> Settings:
        return msgspec.json.decode(text, type=cls, dec_hook=lambda kind, value: kind(value))


def load(options: Mapping[str, Any], file: Path | None = None) -> Settings:
    """Return the settings: ``options`` that are neither None nor empty, then those of the file, then the defaults.

    Without ``file``, read ``pushsvc.toml`` in the working directory if it exists. Raise InvalidSetting with the file,
    the line and the key, and StartupError if the file cannot be read.
    """
    if file is None and DEFAULT_FILE.exists():
        _check_owner(DEFAULT_FILE, "--config")
        file = DEFAULT_FILE
    found = _read(file) if file is not None else {}
    given = {name: value for name, value in options.items() if value not in (None, ())}
    if not given.keys().isdisjoint(_KEYS):
        found = {name: value for name, value in found.items() if name not in _KEYS}
    settings = replace(Settings(), **(found | given))
    if len(keys := [name for name in _KEYS if getattr(settings, name) is not None]) > 1:
        raise InvalidSetting(f"{' and '.join(keys)} are both set: several keys belong to several [[issuers]]")
    _check_alerts(settings, file)
    if settings.redis is None and "data_dir" in options and "data_dir" not in found | given:
        _check_owner(settings.data_dir, "--data-dir")
    return settings


def _check_alerts(settings: Settings, file: Path | None) -> None:
    """Raise InvalidSetting for an alert that does not fit the settings of its topic, or those of webhooks."""
    alerts = settings.alert_settings
    for rule in alerts.rules:
        try:
            check_rule(rule, settings.topics.settings_of(rule.topic))
            if rule.webhook is not None:
                alerts.webhooks.check(rule.webhook)
        except InvalidAlert as error:
            raise InvalidSetting(f"{file}: the alert {rule.name!r}: {error.member}: {error}") from None


def _check_owner(path: Path, option: str) -> None:
    """Raise StartupError if another user made what the working directory has at ``path``: in a folder that many may
    write to, such as /tmp, it could be a trap."""
    with suppress(FileNotFoundError):
        owners = {os.lstat(path).st_uid, os.stat(path).st_uid}
        if others := owners - {os.geteuid(), 0}:
            raise StartupError(
                f"{path} in the working directory belongs to another user (uid {others.pop()}); use {option} {path} "
                "if you trust it"
            )


def _read(path: Path) -> dict[str, Any]:
    try:
        text = _decode(path, path.read_bytes())
    except OSError as error:
        raise StartupError(f"cannot read {path}: {error.strerror}") from error
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # beside TOMLDecodeError: a number too long, arrays nested too deep
        raise InvalidSetting(with_position(path, text, str(error))) from error
    try:
        found = check_table(document, SETTINGS)
    except SettingFault as error:
        key = ".".join(map(_spelled, error.path))
        raise InvalidSetting(f"{path}:{line_of(text, error.path)}: {key}: {error}") from None
    for name in _PATHS & found.keys():
        found[name] = path.parent / found[name]
    found["issuers"] = tuple(
        issuer if issuer.key_file is None else replace(issuer, key_file=path.parent / issuer.key_file)
        for issuer in found.get("issuers", ())
    )
    return found


def _decode(path: Path, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidSetting(f"{path}:{line}: byte 0x{data[error.start]:02x} is not UTF-8") from error


def _spelled(name: str) -> str:
    """Return a name as a key of the file."""
    return name if re.fullmatch("[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)
