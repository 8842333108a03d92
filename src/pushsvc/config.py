"""Settings of the program, from options, ``PUSHSVC_*`` variables and ``pushsvc.toml``, in this order."""

from __future__ import annotations

import difflib
import json
import os
import re
import socket
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
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
"""The file in the working directory that is read if no other is named."""

Check = Callable[[Any], Any]
"""A function from a value of the file to the value of the setting; it raises ValueError."""


@dataclass(frozen=True)
class Settings:
    """The settings of all processes.

    ``drain`` and ``heartbeat`` are in seconds. Without ``redis``, an embedded server runs. ``certfile`` enables TLS;
    without ``keyfile``, it also has the key. 0 connections mean no limit. ``metrics_port`` is for aggregators that run
    without web processes. ``io_uring`` has an effect only if the kernel supports it.
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
    found = _read(file or DEFAULT_FILE) if file is not None or DEFAULT_FILE.exists() else {}
    given = {name: value for name, value in options.items() if value not in (None, ())}
    return replace(Settings(), **(found | given))


def check_bind(settings: Settings) -> None:
    """Raise StartupError if other machines could reach the server, which asks for no credentials."""
    _check_reach(settings.host, settings.insecure, "read and publish")


def check_metrics_bind(settings: Settings) -> None:
    """Raise StartupError if other machines could reach the metrics."""
    if settings.metrics_port is not None:
        _check_reach(settings.metrics_host, settings.insecure, "read the metrics")


def _check_reach(host: str, insecure: bool, action: str) -> None:
    if not insecure and not is_loopback(host):
        raise StartupError(
            f"refused to listen on {host}: no credentials are configured, so every machine that reaches the port "
            f"could {action}. Use --insecure to allow this on a private network"
        )


def is_loopback(host: str) -> bool:
    """Return whether all addresses of a host are loopback addresses; raise StartupError for an unknown host."""
    try:
        found = socket.getaddrinfo(host or "0.0.0.0", None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise StartupError(f"cannot listen on {host!r}: there is no such host") from None
    return all(ip_address(str(address[4][0]).partition("%")[0]).is_loopback for address in found)


def without_password(url: str) -> str:
    """Return a URL without its passwords, for messages. It may list several hosts, which urllib cannot parse."""
    shown = re.sub(r"(?<=://)[^?]*@", "…@", url)
    return re.sub(r"(?<=password=)[^&]*", "…", shown)


# The file


def _read(path: Path) -> dict[str, Any]:
    try:
        text = _decode(path, path.read_bytes())
    except OSError as error:
        raise StartupError(f"cannot read {path}: {error.strerror}") from error
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # beside TOMLDecodeError: a number too long, arrays nested too deep
        raise InvalidSetting(_syntax_error(path, text, str(error))) from error
    try:
        found = _table(document, _SETTINGS)
    except _Fault as error:
        key = ".".join(
            name if _BARE_KEY.fullmatch(name) else json.dumps(name, ensure_ascii=False) for name in error.path
        )
        raise InvalidSetting(f"{path}:{line_of(text, error.path)}: {key}: {error}") from None
    for name in ("data_dir", "certfile", "keyfile"):
        if name in found:
            found[name] = path.parent / found[name]
    return found


def _decode(path: Path, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidSetting(f"{path}:{line}: byte 0x{data[error.start]:02x} is not UTF-8") from error


def _syntax_error(path: Path, text: str, message: str) -> str:
    """Return a message of tomllib that begins with its position: line and column, or the line of what is cut off."""
    if found := re.fullmatch(r"(.*) \(at line ([0-9]+), column ([0-9]+)\)", message, re.DOTALL):
        return f"{path}:{found[2]}:{found[3]}: {found[1]}"
    if message.endswith("(at end of document)"):
        *_, (line, _, _) = _statements(text)
        return f"{path}:{line}: {message}"
    return f"{path}: {message}"


def line_of(text: str, path: Sequence[str]) -> int | None:
    """Return the line on which a TOML document first names the key at ``path``; None if it does not name it.

    A key inside a value of several lines has the line on which the statement begins.
    """
    table: tuple[str, ...] = ()
    for line, is_header, statement in _statements(text):
        within = () if is_header else table
        if statement and tuple(path[: len(within)]) == within and _has(statement, path[len(within) :]):
            return line
        if is_header:
            table = _path_of_header(statement)
    return None


def _statements(text: str) -> Iterator[tuple[int, bool, dict[str, Any]]]:
    """Yield each statement: its first line, whether it is the header of a table, and its content, read by itself.

    tomllib gives no positions of keys, but it knows when a statement is complete. An incomplete last one is empty.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    begin = 0
    for end in range(1, len(lines) + 1):
        try:
            statement = tomllib.loads("\n".join(lines[begin:end]))
        except tomllib.TOMLDecodeError:
            continue  # its value goes on in the next line
        is_header = end == begin + 1 and lines[begin].lstrip().startswith("[")
        yield begin + 1, is_header, statement
        begin = end
    if begin < len(lines):
        yield begin + 1, False, {}


def _has(value: Any, path: Sequence[str]) -> bool:
    for name in path:
        if not isinstance(value, dict) or name not in value:
            return False
        value = value[name][-1] if _is_tables(value[name]) else value[name]
    return True


def _path_of_header(statement: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the path of the table that ``[a.b]`` or ``[[a.b]]``, read by itself, opens."""
    path = []
    while statement:
        [(name, inner)] = statement.items()
        path.append(name)
        statement = inner[-1] if _is_tables(inner) else inner
    return tuple(path)


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[-1], dict)


class _Fault(ValueError):
    """What is wrong with the key at ``path``, which begins in the table that is checked."""

    def __init__(self, detail: str, *path: str) -> None:
        super().__init__(detail)
        self.path = path

    @classmethod
    def under(cls, name: str, error: ValueError) -> _Fault:
        """Return an error of the value of ``name`` as an error of the table around it."""
        return cls(str(error), name, *(error.path if isinstance(error, _Fault) else ()))


def _table(table: Mapping[str, Any], checks: Mapping[str, Check]) -> dict[str, Any]:
    """Return the checked values of a table; raise _Fault."""
    found = {}
    for name, value in table.items():
        if name not in checks:
            near = difflib.get_close_matches(name, checks, 1)
            hint = f"did you mean {near[0]}?" if near else f"the settings are {', '.join(sorted(checks))}"
            raise _Fault(f"there is no such setting; {hint}", name)
        try:
            found[name] = checks[name](value)
        except ValueError as error:
            raise _Fault.under(name, error) from None
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
    """Raise _Fault for fields without a statistic of values, and for such a statistic without a field."""
    chosen = settings.value_statistics
    if chosen and not settings.values:
        raise _Fault(f"{chosen[0]!r} needs fields: name them in values", "statistics")
    if settings.values and not chosen:
        raise _Fault("no statistic uses them: add distinct, top, first or last to statistics", "values")


def _check_expiry(settings: TopicSettings) -> None:
    """Raise _Fault for a topic that would end while a window still has events."""
    if 0 < settings.expire_after <= settings.longest_window:
        raise _Fault("must be longer than the longest window", "expire_after")


def _check_parts(pattern: str, settings: TopicSettings) -> None:
    """Raise _Fault for parts of a topic whose parts cannot be merged exactly, and for parts of a pattern.

    With a pattern, every matching topic would start as many processes.
    """
    if settings.parts == 1:
        return
    if is_pattern(pattern):
        raise _Fault("only a single topic can have parts, and this is a pattern", "parts")
    if not settings.windows:
        raise _Fault("a topic without windows has no statistics to divide", "parts")
    for reason, is_set in (
        ("values", settings.values),
        ("exact windows", settings.exact),
        ("windows of the last N events", settings.largest_count_window),
    ):
        if is_set:
            raise _Fault(f"a topic with {reason} cannot have parts: their results cannot be merged exactly", "parts")


def _topic(pattern: str, value: Any) -> TopicSettings:
    try:
        check_pattern(pattern)
    except InvalidTopic as error:
        raise ValueError(error.detail) from None
    if not isinstance(value, dict):
        raise ValueError("must be a table")
    found = _table(value, _TOPIC)
    settings = TopicSettings(**{_ATTRIBUTES.get(name, name): value for name, value in found.items()})
    _check_values(settings)
    _check_expiry(settings)
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
            raise _Fault.under(pattern, error) from None
    return TopicRules(tuple(rules))


def _limits(value: Any) -> Limits:
    if not isinstance(value, dict):
        raise ValueError("must be a table [limits]")
    return Limits(**_table(value, {one.name: _number(1, 1 << 31) for one in fields(Limits)}))


_BARE_KEY = re.compile("[A-Za-z0-9_-]+")
_MAX_VALUED = 8
_LEAST_EXPIRY = 3_600_000  # ms: ids and idempotency keys are remembered for less
_MAX_AMOUNT = 10**15
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
    "retention_age": _units(_MILLISECONDS, 'a number of seconds, or text such as "24h" or "7d" (s, m, h, d)'),
    "expire_after": _expiry,
    "retention_bytes": _units(_BYTES, 'a number of bytes, or text such as "100MB" (KB, MB, GB, TB)'),
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
