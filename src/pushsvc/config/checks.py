"""Checks of the values in ``pushsvc.toml``, which make settings of them."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from pushsvc.config.alerts import alert_tables, webhook_host, webhook_secret
from pushsvc.config.credentials import (
    IssuerSettings,
    algorithm,
    api_keys,
    application_url,
    header_name,
    jwks_url,
    patience,
    seconds,
    topic_pattern,
)  # fmt: skip
from pushsvc.errors import InvalidSetting, InvalidTopic
from pushsvc.event import Limits
from pushsvc.event.index import HISTORY_PARAMETERS, MOST_FIELDS
from pushsvc.settings import JOB_SETTINGS, JOBS, MAX_LATEST_KEYS, Ack, TopicRules, TopicSettings
from pushsvc.stats.statistic_names import is_of_values, percent_of
from pushsvc.stats.window import Window
from pushsvc.topic import check_pattern, is_pattern

Check = Callable[[Any], Any]  # a function from a value of the file to the value of the setting; it raises ValueError


class SettingFault(ValueError):
    """What is wrong with the key at ``path``, which begins in the table that is checked."""

    def __init__(self, detail: str, *path: str) -> None:
        super().__init__(detail)
        self.path = path

    @classmethod
    def under(cls, name: str, error: ValueError) -> SettingFault:
        """Return an error of the value of ``name`` as an error of the table around it."""
        return cls(str(error), name, *(error.path if isinstance(error, SettingFault) else ()))


def check_table(table: Mapping[str, Any], checks: Mapping[str, Check]) -> dict[str, Any]:
    """Return the checked values of a table; raise SettingFault."""
    found = {}
    for name, value in table.items():
        if name not in checks:
            near = difflib.get_close_matches(name, checks, 1)
            hint = f"did you mean {near[0]}?" if near else f"the settings are {', '.join(sorted(checks))}"
            raise SettingFault(f"there is no such setting; {hint}", name)
        try:
            found[name] = checks[name](value)
        except ValueError as error:
            raise SettingFault.under(name, error) from None
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("must be text in quotes")
    return value


def _path(value: Any) -> Path:
    return Path(os.path.expanduser(_text(value)))


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _number(least: int, most: int) -> Check:
    def check(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(f"must be a whole number from {least} to {most}")
        return value

    return check


def _units(units: Mapping[str, int], expected: str) -> Check:
    """Return a check of a number, or of text such as ``7d`` that ends with a unit."""

    def check(value: Any) -> int:
        found = re.fullmatch("([0-9]{1,15})([A-Za-z]*)", str(value), re.ASCII)
        if isinstance(value, bool) or not isinstance(value, int | str) or not found or found[2] not in units:
            raise ValueError(f"must be {expected}")
        if (amount := int(found[1]) * units[found[2]]) > _MAX_AMOUNT:
            raise ValueError(f"{value!r} is too large: write 0 for no limit")
        return amount

    return check


def _expiry(value: Any) -> int:
    amount: int = _units(_MILLISECONDS, 'a number of seconds, or text such as "7d" (s, m, h, d)')(value)
    if 0 < amount < _LEAST_EXPIRY:
        raise ValueError('must be at least "1h", or 0 for never')
    return amount


def lifetime(value: Any) -> int:
    """Return the longest lifetime of a token, in seconds; raise ValueError."""
    amount: int = _units(_SECONDS, 'a number of seconds, or text such as "12h" or "30d" (s, m, h, d)')(value)
    if not 60 <= amount <= 3_660 * 86_400:
        raise ValueError('must be from "1m" to "3660d"')
    return amount


def origin(value: Any) -> str:
    """Return an origin as browsers send it, or a pattern of origins; raise ValueError with the reason why another text
    cannot be one."""
    if value == "*":
        raise ValueError("'*' would let every page of the web use the API; name the origins")
    if value == "null":
        raise ValueError("'null' is the origin of files and of pages that any site makes; name the origins")
    text = _text(value)
    if "*" in text:
        return _origin_pattern(text)
    if _ORIGIN.fullmatch(text) and not _DEFAULT_PORT.search(text):
        return text
    likely = _DEFAULT_PORT.sub(r"\1\2", text.strip().lower().rstrip("/"))
    hint = f"write {likely}" if _ORIGIN.fullmatch(likely) else "it has a scheme, a host and perhaps a port"
    raise ValueError(f"{text!r} is not an origin as browsers send it, such as https://page.example:8443; {hint}")


def _origin_pattern(text: str) -> str:
    if _TOP_LEVEL.fullmatch(text):
        raise ValueError(f"{text!r} would let every site under that name use the API; name a domain")
    if not _ORIGIN_PATTERN.fullmatch(text) or _DEFAULT_PORT.search(text):
        raise ValueError(
            f"{text!r} is not a pattern of origins, such as https://*.example.com: the * stands for one or more labels "
            "before a domain, in lower case and without the default port of the scheme"
        )
    return text


def _origins(value: Any) -> tuple[str, ...]:
    return tuple(map(origin, _texts(value)))


def network(value: Any) -> str:
    """Return a network such as ``10.0.0.0/8``, or of one address; raise ValueError with the reason."""
    text = _text(value)
    try:
        found = None if "%" in text else ip_network(text, strict=False)
    except ValueError:
        found = None
    if found is None:
        raise ValueError(f"{text!r} is not a network such as 10.0.0.0/8, nor an address")
    if not found.prefixlen:
        raise ValueError(f"{text!r} would trust the headers of everybody; name the networks of the proxies")
    return str(found)


def _networks(value: Any) -> tuple[str, ...]:
    return tuple(map(network, _texts(value)))


def _one_of(*choices: str) -> Check:
    def check(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"must be {', '.join(choices[:-1])} or {choices[-1]}, in quotes")
        return str(value)

    return check


def memory(value: Any) -> int:
    """Return the bytes of a value such as ``2GB``; raise ValueError."""
    amount: int = _units(_BYTES, 'a number of bytes, or text such as "2GB" (KB, MB, GB, TB)')(value)
    if 0 < amount < _LEAST_MEMORY:
        raise ValueError('must be at least "16MB", or 0 for no limit')
    return amount


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        raise ValueError('must be a list of texts, such as ["a", "b"]')
    return tuple(value)


def _clock(value: Any) -> str:
    if value not in ("wall", "event"):
        raise ValueError('must be "wall" or "event"')
    return str(value)


def _windows(value: Any) -> tuple[Window, ...]:
    windows = tuple(map(Window.parse, _texts(value)))
    if len({window.name for window in windows}) < len(windows):
        raise ValueError("must have no window twice; [] means events only, without statistics")
    return windows


def _key(value: Any) -> tuple[str, ...]:
    groupings = (_text(value),) if isinstance(value, str) else _texts(value)
    if not groupings or len(set(groupings)) < len(groupings):
        raise ValueError("must have at least one grouping, and none twice")
    for grouping in groupings:
        names = grouping.split("+")
        if "" in names or "time" in names or any(name.startswith("$") for name in names):
            raise ValueError(f"{grouping!r} must be the name of a field, or several names joined by +")
    return groupings


def _statistics(value: Any) -> tuple[str, ...]:
    texts = _texts(value)
    if len(set(texts)) < len(texts):
        raise ValueError("must have no statistic twice")
    for text in texts:
        if not percent_of(text) and not is_of_values(text):
            raise ValueError(
                f"{text!r} is not an optional statistic; these are p1 to p99 and, for fields in values, "
                "distinct, top (top1 to top100), first and last"
            )
    return texts


def _values(value: Any) -> tuple[str, ...]:
    names = _texts(value)
    if len(set(names)) < len(names) or len(names) > _MAX_VALUED:
        raise ValueError(f"must have at most {_MAX_VALUED} fields, and none twice")
    for name in names:
        if name == "time" or name.startswith("$"):
            raise ValueError(f"{name!r} must be the name of a field")
    return names


def _check_values(settings: TopicSettings) -> None:
    """Raise SettingFault for fields without a statistic of values, and for such a statistic without a field."""
    chosen = settings.value_statistics
    if chosen and not settings.values:
        raise SettingFault(f"{chosen[0]!r} needs fields: name them in values", "statistics")
    if settings.values and not chosen:
        raise SettingFault("no statistic uses them: add distinct, top, first or last to statistics", "values")


def _check_expiry(settings: TopicSettings) -> None:
    """Raise SettingFault for a topic that would end while a window still has events."""
    if 0 < settings.expire_after <= settings.longest_window:
        raise SettingFault("must be longer than the longest window", "expire_after")


def _latest_deletes(value: Any) -> tuple[str, ...]:
    types = _texts(value)
    if len(types) > _MAX_DELETES:
        raise ValueError(f"must have at most {_MAX_DELETES} types")
    return types


def _index(value: Any) -> tuple[str, ...]:
    names = (_text(value),) if isinstance(value, str) else _texts(value)
    if len(set(names)) < len(names) or len(names) > MOST_FIELDS:
        raise ValueError(f"must have at most {MOST_FIELDS} fields, and none twice")
    for name in names:
        if name in ("id", "time") or name.startswith("$") or not name.isprintable():
            raise ValueError(f"{name!r} must be the name of a field, key or type")
        if name in HISTORY_PARAMETERS:
            raise ValueError(f"{name!r} is a parameter of history with another meaning: use where={name}=…")
    return names


def _check_latest(settings: TopicSettings) -> None:
    """Raise SettingFault for the newest events of more keys than one answer may have."""
    if settings.latest and settings.max_keys > MAX_LATEST_KEYS:
        raise SettingFault(f"with latest = true it must be at most {MAX_LATEST_KEYS}", "max_keys")


def _check_parts(pattern: str, settings: TopicSettings) -> None:
    """Raise SettingFault for parts of a pattern, and of a topic without windows.

    With a pattern, every matching topic would start as many processes.
    """
    if settings.parts == 1:
        return
    if is_pattern(pattern):
        raise SettingFault("only a single topic can have parts, and this is a pattern", "parts")
    if not settings.windows:
        raise SettingFault("a topic without windows has no statistics to divide", "parts")


def _topic(pattern: str, value: Any) -> TopicSettings:
    try:
        check_pattern(pattern)
    except InvalidTopic as error:
        raise ValueError(error.detail) from None
    if not isinstance(value, dict):
        raise ValueError("must be a table")
    found = check_table(value, _TOPIC)
    base = JOB_SETTINGS if pattern.startswith(JOBS) else TopicSettings()
    try:
        settings = replace(base, **{_ATTRIBUTES.get(name, name): value for name, value in found.items()})
    except InvalidSetting as error:
        raise SettingFault(error.detail, "parts") from None
    _check_values(settings)
    _check_expiry(settings)
    _check_latest(settings)
    _check_parts(pattern, settings)
    return settings


def _topics(value: Any) -> TopicRules:
    if not isinstance(value, dict):
        raise ValueError('must have a table per topic or pattern, such as [topics."a.*"]')
    rules = []
    for pattern, table in value.items():
        try:
            rules.append((pattern, _topic(pattern, table)))
        except ValueError as error:
            raise SettingFault.under(pattern, error) from None
    return TopicRules(tuple(rules))


def _each(check: Check) -> Check:
    """Return a check of a list, by a check of its members."""
    return lambda value: tuple(map(check, _texts(value)))


def _issuer(value: Any) -> IssuerSettings:
    if not isinstance(value, dict):
        raise ValueError("must be a table [[issuers]]")
    found = IssuerSettings(**check_table(value, _ISSUER))
    if sum(given is not None for given in (found.key, found.key_file, found.jwks_url)) != 1:
        raise ValueError("must have one of key, key_file and jwks_url")
    return found


def _issuers(value: Any) -> tuple[IssuerSettings, ...]:
    if not isinstance(value, list):
        raise ValueError("must be tables [[issuers]]")
    issuers = tuple(map(_issuer, value))
    names = [issuer.name for issuer in issuers]
    if len(set(names)) < len(names):
        raise ValueError("must have different names: a token is verified by the issuer that it names")
    return issuers


def _limits(value: Any) -> Limits:
    if not isinstance(value, dict):
        raise ValueError("must be a table [limits]")
    # Those of subjects and addresses may be 0, which is no limit.
    checks = {one.name: _number(0 if "_per_" in one.name else 1, 1 << 31) for one in fields(Limits)}
    checks["memory_per_address"] = _number(1, 1 << 31)
    return Limits(**check_table(value, checks))


_MAX_VALUED = 8
_MAX_DELETES = 20
_LEAST_EXPIRY = 3_600_000  # ms: ids and idempotency keys are remembered for less
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", re.ASCII)
_ORIGIN_PATTERN = re.compile(r"[a-z][a-z0-9+.-]*://\*(\.[a-z0-9_-]+)+\.[a-z][a-z0-9-]*(:[0-9]{1,5})?", re.ASCII)
_TOP_LEVEL = re.compile(r"[a-z][a-z0-9+.-]*://\*\.[a-z0-9_-]+(:[0-9]{1,5})?", re.ASCII)
_DEFAULT_PORT = re.compile("^(http(?=://.*:80$)|https(?=://.*:443$))(.*):[0-9]+$")
_LEAST_MEMORY = 16 * 10**6
_MAX_AMOUNT = 10**15
_MILLISECONDS = {"": 1_000, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_SECONDS = {unit: amount // 1_000 for unit, amount in _MILLISECONDS.items()}
_BYTES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_ATTRIBUTES = {"cadence_ms": "cadence", "idle_cadence_ms": "idle_cadence"}
_TOPIC: dict[str, Check] = {
    "windows": _windows,
    "key": _key,
    "statistics": _statistics,
    "values": _values,
    "clock": _clock,
    "jump": _switch,
    "cadence_ms": _number(0, 3_600_000),
    "idle_cadence_ms": _number(0, 3_600_000),
    "max_keys": _number(1, 1_000_000),
    "max_fields": _number(1, 1_000),
    "exact": _switch,
    "max_events": _number(1, 1_000_000),
    "max_values": _number(1, 1_000_000),
    "parts": _number(1, 16),
    "retention": _number(0, 1_000_000_000),
    "retention_age": _units(_MILLISECONDS, 'a number of seconds, or text such as "24h" or "7d" (s, m, h, d)'),
    "expire_after": _expiry,
    "retention_bytes": _units(_BYTES, 'a number of bytes, or text such as "100MB" (KB, MB, GB, TB)'),
    "latest": _switch,
    "latest_deletes": _latest_deletes,
    "index": _index,
}
_ISSUER: dict[str, Check] = {
    "name": _text,
    "key": _text,
    "key_file": _path,
    "jwks_url": jwks_url,
    "algorithms": _each(algorithm),
    "audience": _texts,
    "leeway": seconds,
    "needs_expiry": _switch,
}
SETTINGS: dict[str, Check] = {
    "redis": _text,
    "redis_username": _text,
    "redis_password_file": _path,
    "redis_ca_file": _path,
    "redis_cert_file": _path,
    "redis_key_file": _path,
    "prefix": _text,
    "host": _text,
    "port": _number(0, 65_535),
    "workers": _number(1, 256),
    "aggregators": _number(1, 64),
    "metrics_host": _text,
    "metrics_port": _number(0, 65_535),
    "data_dir": _path,
    "maxmemory": memory,
    "allow_host": _texts,
    "allow_origin": _origins,
    "allow_read_origin": _origins,
    "allow_write_origin": _origins,
    "trusted_proxy": _networks,
    "log_format": _one_of("text", "json"),
    "log_level": _one_of("debug", "info", "warning", "error"),
    "access_log": _switch,
    "insecure": _switch,
    "drain": _number(0, 3_600),
    "watchdog": _number(0, 3_600),
    "heartbeat": _number(1, 3_600),
    "wait": _switch,
    "ack": lambda value: Ack.parse(_text(value)),
    "certfile": _path,
    "keyfile": _path,
    "max_connections": _number(0, 10_000_000),
    "max_connections_per_address": _number(0, 10_000_000),
    "topics": _topics,
    "alerts": alert_tables,
    "webhook_hosts": _each(webhook_host),
    "webhook_secret": webhook_secret,
    "io_uring": _switch,
    "jwt_key": _text,
    "jwt_key_file": _path,
    "jwt_alg": algorithm,
    "jwt_issuer": _text,
    "jwt_audience": _texts,
    "jwt_jwks_url": jwks_url,
    "jwt_leeway": seconds,
    "jwt_needs_expiry": _switch,
    "token_lifetime": lifetime,
    "authorize_url": application_url,
    "authorize_headers": _each(header_name),
    "authorize_timeout": patience,
    "issuers": _issuers,
    "keys": api_keys,
    "anonymous_publish": _each(topic_pattern),
    "anonymous_subscribe": _each(topic_pattern),
    "token_parameter": _switch,
    "limits": _limits,
}
