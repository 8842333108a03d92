"""Options of the command line, and how they become Settings."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from pushsvc.cli.terminal import log_to_terminal

if TYPE_CHECKING:
    from pushsvc.settings import Ack

F = TypeVar("F", bound=Callable[..., Any])
log = logging.getLogger(__name__)


def option(*names: str, **settings: Any) -> Callable[[F], F]:
    """Return a decorator for an option that can also be set with the variable ``PUSHSVC_<NAME>``."""
    name = names[0].partition("/")[0].lstrip("-").replace("-", "_").upper()
    return click.option(*names, envvar=f"PUSHSVC_{name}", show_envvar=True, **settings)


class _AckType(click.ParamType["Ack"]):
    name = "ack"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Ack:
        from pushsvc.settings import Ack

        try:
            return value if isinstance(value, Ack) else Ack.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _CheckedType(click.ParamType[Any]):
    """A value that a function of the settings' checks takes."""

    def __init__(self, name: str) -> None:
        self.name = name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from pushsvc.config import checks

        try:
            return getattr(checks, self.name)(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _origin_option(name: str, rights: str) -> Callable[[F], F]:
    return option(
        name,
        type=_CheckedType("origin"),
        multiple=True,
        metavar="ORIGIN",
        help=f"Let pages of this Origin, or of https://*.example.com, {rights} (repeatable).",
    )


_PORT = click.IntRange(0, 65_535)
_CONNECTIONS = click.IntRange(0, 10_000_000)
_FILE = click.Path(dir_okay=False, path_type=Path)
_OPTIONS: dict[str, Callable[[Any], Any]] = {
    "host": option("--host", help="Address to listen on. [default: 127.0.0.1]"),
    "port": option("--port", type=_PORT, help="Port to listen on; 0 takes a free one. [default: 8000]"),
    "redis": option(
        "--redis",
        metavar="URL",
        help="Redis or Valkey to use: redis://host:6379/0, redis+sentinel://host,host/master, redis+cluster://host,host.",
    ),
    "redis_username": option("--redis-username", metavar="NAME", help="User of Redis's ACL, if the URL names none."),
    "redis_password_file": option(
        "--redis-password-file", type=_FILE, help="File with the password, read again at each connect."
    ),
    "redis_ca_file": option("--redis-ca-file", type=_FILE, help="Certificates (PEM) that sign those of Redis."),
    "redis_cert_file": option("--redis-cert-file", type=_FILE, help="Client certificate (PEM) to present to Redis."),
    "redis_key_file": option("--redis-key-file", type=_FILE, help="Its private key, if it is not in the same file."),
    "prefix": option("--prefix", help="Start of all keys and channels in Redis. [default: pushsvc:]"),
    "data_dir": option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        help="Directory for the data of the embedded server, which runs without --redis. [default: pushsvc-data]",
    ),
    "maxmemory": option(
        "--maxmemory",
        type=_CheckedType("memory"),
        metavar="SIZE",
        help="Most memory of the embedded server, such as 2GB; 0: no limit. [default: half of the memory]",
    ),
    "workers": option("--workers", type=click.IntRange(1, 256), help="Web processes. [default: 1]"),
    "aggregators": option("--aggregators", type=click.IntRange(1, 64), help="Aggregator processes. [default: 1]"),
    "metrics_host": option("--metrics-host", help="Address of the metrics port. [default: 127.0.0.1]"),
    "metrics_port": option(
        "--metrics-port", type=_PORT, help="Port that serves /metrics; 0 takes a free one. [default: none]"
    ),
    "allow_host": option(
        "--allow-host", multiple=True, metavar="NAME", help="Also answer requests for this Host (repeatable)."
    ),
    "allow_origin": _origin_option("--allow-origin", "read and publish"),
    "allow_read_origin": _origin_option("--allow-read-origin", "read"),
    "allow_write_origin": _origin_option("--allow-write-origin", "read, publish and delete"),
    "insecure": option(
        "--insecure", is_flag=True, default=None, help="Listen where other machines can connect, without credentials."
    ),
    "heartbeat": option(
        "--heartbeat",
        type=click.IntRange(1, 3600),
        metavar="SECONDS",
        help="Time between heartbeats of an idle stream; must be below the timeout of any proxy. [default: 15]",
    ),
    "drain": option(
        "--drain", type=click.IntRange(0, 3600), metavar="SECONDS", help="Time for an orderly shutdown. [default: 5]"
    ),
    "watchdog": option(
        "--watchdog",
        type=click.IntRange(0, 3600),
        metavar="SECONDS",
        help="Replace a process whose event loop stands still for so long; 0: never. [default: 10]",
    ),
    "ack": option(
        "--ack",
        type=_AckType(),
        metavar="memory|fsync|replicas:N",
        help="What must hold events before publishing is answered with 202. [default: memory]",
    ),
    "certfile": option("--certfile", type=_FILE, help="Serve TLS with this certificate chain (PEM)."),
    "keyfile": option("--keyfile", type=_FILE, help="The certificate's private key, if it is not in the same file."),
    "max_connections": option(
        "--max-connections",
        type=_CONNECTIONS,
        help="Most connections of all web processes together; 0: no limit. [default: 50000]",
    ),
    "max_connections_per_address": option(
        "--max-connections-per-address",
        type=_CONNECTIONS,
        help="Most connections from one remote address; 0: no limit. [default: 1000]",
    ),
    "jwt_key_file": option(
        "--jwt-key-file",
        type=_FILE,
        help="Ask for tokens that this key verifies: a secret or, in PEM, a public key. PUSHSVC_JWT_KEY may hold it.",
    ),
    "jwt_jwks_url": option(
        "--jwt-jwks-url", type=_CheckedType("jwks_url"), metavar="URL", help="Fetch the keys of tokens from there."
    ),
    "jwt_alg": option(
        "--jwt-alg", type=_CheckedType("algorithm"), metavar="NAME", help="Algorithm of the key. [default: HS256]"
    ),
    "jwt_issuer": option("--jwt-issuer", metavar="NAME", help="Accept tokens with this iss only."),
    "jwt_audience": option(
        "--jwt-audience", multiple=True, metavar="NAME", help="Accept tokens with this aud only (repeatable)."
    ),
    "jwt_leeway": option(
        "--jwt-leeway",
        type=click.FloatRange(0, 600),
        metavar="SECONDS",
        help="How far the clock of the issuer may be from ours. [default: 10]",
    ),
    "jwt_needs_expiry": option(
        "--jwt-needs-expiry/--no-jwt-needs-expiry",
        default=None,
        help="Refuse tokens that never expire. [default: --jwt-needs-expiry]",
    ),
    "token_lifetime": option(
        "--token-lifetime",
        type=_CheckedType("lifetime"),
        metavar="DURATION",
        help="Longest lifetime of a token, and of a revocation. [default: 30d]",
    ),
    "authorize_url": option(
        "--authorize-url",
        type=_CheckedType("application_url"),
        metavar="URL",
        help="Ask this application what requests without our tokens may do.",
    ),
    "authorize_headers": option(
        "--authorize-headers",
        type=_CheckedType("header_name"),
        multiple=True,
        metavar="NAME",
        help="Headers that it gets (repeatable). [default: cookie, authorization]",
    ),
    "authorize_timeout": option(
        "--authorize-timeout",
        type=click.FloatRange(0.1, 30),
        metavar="SECONDS",
        help="Time for its answer. [default: 2]",
    ),
    "anonymous_publish": option(
        "--anonymous-publish",
        type=_CheckedType("topic_pattern"),
        multiple=True,
        metavar="PATTERN",
        help="Let everybody publish to these topics (repeatable).",
    ),
    "anonymous_subscribe": option(
        "--anonymous-subscribe",
        type=_CheckedType("topic_pattern"),
        multiple=True,
        metavar="PATTERN",
        help="Let everybody read these topics (repeatable).",
    ),
    "token_parameter": option(
        "--token-parameter/--no-token-parameter",
        default=None,
        help="Accept a token as ?token=, too: URLs get into logs and histories. [default: --no-token-parameter]",
    ),
    "io_uring": option(
        "--io-uring/--no-io-uring",
        default=None,
        help="Send a message to many streams with one call, if the kernel supports io_uring. [default: --io-uring]",
    ),
    "trusted_proxy": option(
        "--trusted-proxy",
        type=_CheckedType("network"),
        multiple=True,
        metavar="CIDR",
        help="Take the client's address from Forwarded or X-Forwarded-For of proxies in this network (repeatable).",
    ),
    "log_format": option(
        "--log-format", type=click.Choice(["text", "json"]), help="Form of the log's lines. [default: text]"
    ),
    "log_level": option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"]),
        help="Least level of what is logged. [default: info]",
    ),
    "access_log": option("--access-log", is_flag=True, default=None, help="Log every answer."),
    "webhook_hosts": option(
        "--webhook-hosts",
        type=_CheckedType("webhook_host"),
        multiple=True,
        metavar="HOST",
        help="Send webhooks of alerts to this host, or to *.example.com (repeatable).",
    ),
    "wait": option("--wait", is_flag=True, default=None, help="Wait for Redis if it does not answer yet."),
}

TLS = ("certfile", "keyfile")
_LIMITS = ("max_connections", "max_connections_per_address")
_ORIGINS = ("allow_origin", "allow_read_origin", "allow_write_origin")
_ACCESS = (
    "jwt_key_file", "jwt_jwks_url", "jwt_alg", "jwt_issuer", "jwt_audience", "jwt_leeway", "jwt_needs_expiry",
    "anonymous_publish", "anonymous_subscribe", "token_parameter", "token_lifetime",
    "authorize_url", "authorize_headers", "authorize_timeout",
)  # fmt: skip
WEB = (
    "host", "port", "workers", "allow_host", *_ORIGINS, "trusted_proxy", "insecure", *_ACCESS, "ack", "heartbeat",
    "io_uring", *_LIMITS, "access_log", "webhook_hosts",
)  # fmt: skip
_REDIS = (
    "redis", "redis_username", "redis_password_file", "redis_ca_file", "redis_cert_file", "redis_key_file",
)  # fmt: skip
COMMON = (*_REDIS, "prefix", "drain", "watchdog", "wait", "log_format", "log_level")
"""Names of the options that commands share."""


def _warn_of_password(url: str | None) -> None:
    """Warn of a password in ``--redis``."""
    if url is None or click.get_current_context().get_parameter_source("redis") is not ParameterSource.COMMANDLINE:
        return
    from pushsvc.broker.cluster.address import has_password

    if has_password(url):
        log.warning(
            "WARNING: the command line shows the password of Redis to every user of this machine: "
            "use --redis-password-file, or the variable PUSHSVC_REDIS"
        )


def from_environment(*names: str) -> dict[str, Any]:
    """Return the settings that ``PUSHSVC_*`` variables give to the named options. Raise InvalidSetting."""
    from pushsvc.errors import InvalidSetting

    def nothing() -> None:
        """Carry the options."""

    for name in names:
        nothing = _OPTIONS[name](nothing)
    command = click.Command("settings", params=getattr(nothing, "__click_params__", []))
    try:
        given = command.make_context("settings", []).params
    except click.UsageError as error:
        raise InvalidSetting(error.format_message()) from None
    return {name: value for name, value in given.items() if value not in (None, ())}


def server_options(*names: str) -> Callable[[F], F]:
    """Return a decorator that adds the named options and ``--config``; the command receives Settings."""

    def decorate(command: F) -> F:
        def run(config: Path | None, **given: Any) -> Any:
            own = {name: given.pop(name) for name in names}
            log_to_terminal("pushsvc")
            _warn_of_password(own.get("redis"))
            from pushsvc.config import load
            from pushsvc.config.access import take_key_variable
            from pushsvc.config.alerts import take_secret_variable

            # Both are taken also where they are not used: no child inherits them.
            key, secret = take_key_variable(), take_secret_variable()
            if "jwt_alg" in names:
                own["jwt_key"] = key
            if "webhook_hosts" in names:
                own["webhook_secret"] = secret
            settings = load(own, config)
            log_to_terminal("pushsvc", settings.log_format, settings.log_level)
            return command(settings, **given)

        run.__doc__, run.__name__ = command.__doc__, command.__name__
        run.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
        decorated: Any = option(
            "--config", type=_FILE, help="File with settings. [default: pushsvc.toml, if it is there]"
        )(run)
        for name in reversed(names):
            decorated = _OPTIONS[name](decorated)
        return decorated  # type: ignore[no-any-return]

    return decorate
