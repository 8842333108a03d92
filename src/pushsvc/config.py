"""Settings of the program: from options, ``PUSHSVC_*``, and ``pushsvc.toml``, in this order."""

from __future__ import annotations

import difflib
import os
import re
import socket
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import msgspec

from pushsvc.errors import InvalidSetting, InvalidTopic, StartupError
from pushsvc.event import Limits
from pushsvc.settings import Ack, TopicRules, TopicSettings
from pushsvc.stats.statistic_names import is_of_values, percent_of
from pushsvc.stats.window import Window
from pushsvc.topic import check_pattern, is_pattern

DEFAULT_FILE = Path("pushsvc.toml")
"""Read from the working directory when no other is named."""

Check = Callable[[Any], Any]
"""Takes a value as the file has it and returns it as the program wants it, or raises ValueError."""


@dataclass(frozen=True)
class Settings:
    """What all roles need to know.

    ``drain`` and ``heartbeat`` are in seconds; ``redis`` None means an embedded server. ``certfile`` turns TLS on;
    without ``keyfile`` it holds the key too. A number of connections of 0 is no cap. Without ``metrics_port``
    aggregators alone listen nowhere. ``io_uring`` is used where the kernel has it.
    """

    redis: str | None = None
    prefix: str = "pushsvc:"
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    aggregators: int = 1
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = None
    data_dir: Path = Path("pushsvc-data")
    allow_host: tuple[str, ...] = ()
    allow_origin: tuple[str, ...] = ()
    insecure: bool = False
    drain: int = 5
    heartbeat: int = 15
    wait: bool = False
    ack: Ack = field(default_factory=Ack)
    certfile: Path | None = None
    keyfile: Path | None = None
    max_connections: int = 50_000
    max_connections_per_address: int = 1_000
    io_uring: bool = True
    topics: TopicRules = field(default_factory=TopicRules)
    limits: Limits = field(default_factory=Limits)

    def encode(self) -> str:
        """Return everything as text for a child process."""
        return msgspec.json.encode(self, enc_hook=str).decode()

    @classmethod
    def decode(cls, text: str) -> Settings:
        return msgspec.json.decode(text, type=cls, dec_hook=lambda kind, value: kind(value))


def load(options: Mapping[str, Any], file: Path | None = None) -> Settings:
    """Return the settings: ``options`` that are not None or empty, then the file's, then the defaults.

    Without ``file``, ``pushsvc.toml`` of the working directory is read when it is there. Raise InvalidSetting with
    the name of the file and the key, StartupError when the file cannot be read.
    """
    found = _read(file or DEFAULT_FILE) if file is not None or DEFAULT_FILE.exists() else {}
    given = {name: value for name, value in options.items() if value not in (None, ())}
    return replace(Settings(), **(found | given))


def check_bind(settings: Settings) -> None:
    """Refuse to listen where others can reach a server that asks nobody who they are."""
    _check_reach(settings.host, settings.insecure, "read and publish")


def check_metrics_bind(settings: Settings) -> None:
    """Refuse to show figures where others can reach them."""
    if settings.metrics_port is not None:
        _check_reach(settings.metrics_host, settings.insecure, "read the figures")


def _check_reach(host: str, insecure: bool, what: str) -> None:
    if not insecure and not is_loopback(host):
        raise StartupError(
            f"refused to listen on {host}: no credentials are configured, so whoever reaches the port could {what}; "
            "--insecure allows it (on a private network)"
        )


def is_loopback(host: str) -> bool:
    """Tell whether every address of a host name or address is this machine's own."""
    try:
        found = socket.getaddrinfo(host or "0.0.0.0", None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise StartupError(f"cannot listen on {host!r}: there is no such host") from None
    return all(ip_address(str(address[4][0]).partition("%")[0]).is_loopback for address in found)


def without_password(url: str) -> str:
    """Return a URL that may be shown. (Lists of hosts are nothing that urllib takes apart.)"""
    shown = re.sub(r"(?<=://)[^?]*@", "…@", url)
    return re.sub(r"(?<=password=)[^&]*", "…", shown)


# The file


def _read(path: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise StartupError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidSetting(f"{path}: {error}") from error
    found = _table(document, _SETTINGS, f"{path}: ")
    for name in ("data_dir", "certfile", "keyfile"):
        if name in found:
            found[name] = path.parent / found[name]
    return found


def _table(table: Mapping[str, Any], checks: Mapping[str, Check], where: str) -> dict[str, Any]:
    """Check every value of a table by its name; errors begin with ``where`` and the name."""
    found = {}
    for name, value in table.items():
        if name not in checks:
            near = difflib.get_close_matches(name, checks, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(checks))}"
            raise InvalidSetting(f"{where}{name}: there is no such setting; {hint}")
        try:
            found[name] = checks[name](value)
        except _Nested as error:
            raise InvalidSetting(f"{where}{name}.{error}") from None
        except ValueError as error:
            raise InvalidSetting(f"{where}{name}: {error}") from None
    return found


class _Nested(ValueError):
    """An error whose text begins with the rest of the key."""


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("a text in quotes is expected")
    return value


def _path(value: Any) -> Path:
    return Path(os.path.expanduser(_text(value)))


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false is expected")
    return value


def _number(least: int, most: int) -> Check:
    def check(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(f"a whole number from {least} to {most} is expected")
        return value

    return check


def _units(units: Mapping[str, int], expected: str) -> Check:
    """Return a check of a number, or of text such as ``7d`` that ends with one of the units."""

    def check(value: Any) -> int:
        found = re.fullmatch("([0-9]{1,15})([A-Za-z]*)", str(value), re.ASCII)
        if isinstance(value, bool) or not isinstance(value, int | str) or not found or found[2] not in units:
            raise ValueError(f"{expected} is expected")
        if (amount := int(found[1]) * units[found[2]]) > _MOST_AMOUNT:
            raise ValueError(f"{value!r} is too much: leave it out, or write 0, for no bound")
        return amount

    return check


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        raise ValueError('a list of texts is expected, such as ["a", "b"]')
    return tuple(value)


def _clock(value: Any) -> str:
    if value not in ("wall", "event"):
        raise ValueError('"wall" or "event" is expected')
    return str(value)


def _windows(value: Any) -> tuple[Window, ...]:
    windows = tuple(map(Window.parse, _texts(value)))
    if not windows or len({window.name for window in windows}) < len(windows):
        raise ValueError("at least one window is expected, and none twice")
    return windows


def _key(value: Any) -> tuple[str, ...]:
    groupings = (_text(value),) if isinstance(value, str) else _texts(value)
    if not groupings or len(set(groupings)) < len(groupings):
        raise ValueError("at least one grouping is expected, and none twice")
    for grouping in groupings:
        names = grouping.split("+")
        if "" in names or "time" in names or any(name.startswith("$") for name in names):
            raise ValueError(f"{grouping!r}: names of fields are expected, several joined by +")
    return groupings


def _statistics(value: Any) -> tuple[str, ...]:
    texts = _texts(value)
    if len(set(texts)) < len(texts):
        raise ValueError("none may be there twice")
    for text in texts:
        if not percent_of(text) and not is_of_values(text):
            raise ValueError(
                f"{text!r} is no statistic to choose: p1 to p99 are, and of values distinct, top (top1 to top100), "
                "first and last"
            )
    return texts


def _values(value: Any) -> tuple[str, ...]:
    names = _texts(value)
    if len(set(names)) < len(names) or len(names) > _MOST_VALUED:
        raise ValueError(f"at most {_MOST_VALUED} fields are expected, and none twice")
    for name in names:
        if name == "time" or name.startswith("$"):
            raise ValueError(f"{name!r}: names of fields are expected")
    return names


def _check_values(settings: TopicSettings, where: str) -> TopicSettings:
    """Refuse fields whose values nobody asks for, and statistics of values of no field."""
    chosen = settings.value_statistics
    if chosen and not settings.values:
        raise InvalidSetting(
            f"{where}statistics: {chosen[0]!r} needs fields whose values are kept: name them in values"
        )
    if settings.values and not chosen:
        raise InvalidSetting(f"{where}values: no statistic needs them: name distinct, top, first or last in statistics")
    return settings


def _check_parts(pattern: str, settings: TopicSettings, where: str) -> TopicSettings:
    """Refuse to split what cannot be merged exactly, and patterns: each topic of one would start as many processes."""
    if settings.parts == 1:
        return settings
    if is_pattern(pattern):
        raise InvalidSetting(f"{where}parts: only a topic named in full can be split, this is a pattern")
    for reason, there in (
        ("values", settings.values),
        ("exact windows", settings.exact),
        ("windows of the last N events", settings.largest_count_window),
    ):
        if there:
            raise InvalidSetting(f"{where}parts: a topic with {reason} cannot be split: what parts know does not merge")
    return settings


def _topic(pattern: str, value: Any) -> tuple[str, TopicSettings]:
    quoted = pattern if pattern.replace("-", "").replace("_", "").isalnum() else f'"{pattern}"'
    try:
        check_pattern(pattern)
    except InvalidTopic as error:
        raise _Nested(f"{quoted}: {error}") from None
    if not isinstance(value, dict):
        raise _Nested(f"{quoted}: a table is expected")
    try:
        found = _table(value, _TOPIC, f"{quoted}.")
        settings = TopicSettings(**{_ATTRIBUTES.get(name, name): value for name, value in found.items()})
        return pattern, _check_parts(pattern, _check_values(settings, f"{quoted}."), f"{quoted}.")
    except InvalidSetting as error:
        raise _Nested(str(error)) from None


def _topics(value: Any) -> TopicRules:
    if not isinstance(value, dict):
        raise ValueError('a table per topic or pattern is expected, such as [topics."a.*"]')
    return TopicRules(tuple(_topic(pattern, table) for pattern, table in value.items()))


def _limits(value: Any) -> Limits:
    if not isinstance(value, dict):
        raise ValueError("a table [limits] is expected")
    try:
        return Limits(**_table(value, {one.name: _number(1, 1 << 31) for one in fields(Limits)}, ""))
    except InvalidSetting as error:
        raise _Nested(str(error)) from None


_MOST_VALUED = 8
_MOST_AMOUNT = 10**15
_MILLISECONDS = {"": 1_000, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
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
    "retention_age": _units(_MILLISECONDS, 'a number of seconds, or a text such as "24h" or "7d" (s, m, h, d)'),
    "retention_bytes": _units(_BYTES, 'a number of bytes, or a text such as "100MB" (KB, MB, GB, TB)'),
}
_SETTINGS: dict[str, Check] = {
    "redis": _text,
    "prefix": _text,
    "host": _text,
    "port": _number(0, 65_535),
    "workers": _number(1, 256),
    "aggregators": _number(1, 64),
    "metrics_host": _text,
    "metrics_port": _number(0, 65_535),
    "data_dir": _path,
    "allow_host": _texts,
    "allow_origin": _texts,
    "insecure": _switch,
    "drain": _number(0, 3_600),
    "heartbeat": _number(1, 3_600),
    "wait": _switch,
    "ack": lambda value: Ack.parse(_text(value)),
    "certfile": _path,
    "keyfile": _path,
    "max_connections": _number(0, 10_000_000),
    "max_connections_per_address": _number(0, 10_000_000),
    "topics": _topics,
    "io_uring": _switch,
    "limits": _limits,
}
