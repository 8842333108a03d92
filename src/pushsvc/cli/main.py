"""The command line: what is asked for, put together."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from pushsvc import __version__
from pushsvc.config import Settings, check_bind, check_metrics_bind, load
from pushsvc.errors import InvalidInput, PushError, StartupError
from pushsvc.settings import Ack, TopicSettings
from pushsvc.stats.window import Window
from pushsvc.supervisor.folders import private_folder
from pushsvc.topic import check_topic

F = TypeVar("F", bound=Callable[..., Any])
DEFAULT_URL = "http://127.0.0.1:8000"


class _Program(click.Group):
    """Errors of ours become one line and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PushError as error:
            raise click.ClickException(error.detail) from error


def _option(*names: str, **settings: Any) -> Callable[[F], F]:
    """An option that is also read from ``PUSHSVC_<NAME>``."""
    name = names[0].partition("/")[0].lstrip("-").replace("-", "_").upper()
    return click.option(*names, envvar=f"PUSHSVC_{name}", show_envvar=True, **settings)


class _AckType(click.ParamType[Ack]):
    name = "ack"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Ack:
        try:
            return value if isinstance(value, Ack) else Ack.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


_SCRAPERS = 64
"""Connections to the metrics of an aggregator, at most."""

_PORT = click.IntRange(0, 65_535)
_OPTIONS: dict[str, Callable[[Any], Any]] = {
    "host": _option("--host", help="Address to listen on. [default: 127.0.0.1]"),
    "port": _option("--port", type=_PORT, help="Port to listen on; 0 takes a free one. [default: 8000]"),
    "redis": _option(
        "--redis",
        metavar="URL",
        help="Redis or Valkey to use: redis://host:6379/0, redis+sentinel://host,host/master, redis+cluster://host,host.",
    ),
    "prefix": _option("--prefix", help="Begins all keys and channels in Redis. [default: pushsvc:]"),
    "data_dir": _option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        help="Where the embedded server keeps its data when no --redis is named. [default: pushsvc-data]",
    ),
    "workers": _option("--workers", type=click.IntRange(1, 256), help="Web processes. [default: 1]"),
    "aggregators": _option("--aggregators", type=click.IntRange(1, 64), help="Aggregator processes. [default: 1]"),
    "metrics_host": _option("--metrics-host", help="Address of the metrics' port. [default: 127.0.0.1]"),
    "metrics_port": _option(
        "--metrics-port", type=_PORT, help="Port to show /metrics on; 0 takes a free one. [default: none]"
    ),
    "allow_host": _option(
        "--allow-host", multiple=True, metavar="NAME", help="Also answer requests for this Host (repeatable)."
    ),
    "allow_origin": _option(
        "--allow-origin", multiple=True, metavar="ORIGIN", help="Let pages of this Origin read and write (repeatable)."
    ),
    "insecure": _option(
        "--insecure", is_flag=True, default=None, help="Listen where others can reach it, without credentials."
    ),
    "heartbeat": _option(
        "--heartbeat",
        type=click.IntRange(1, 3600),
        metavar="SECONDS",
        help="Silence that a stream may have; less than what a proxy cuts. [default: 15]",
    ),
    "drain": _option(
        "--drain", type=click.IntRange(0, 3600), metavar="SECONDS", help="Time for an orderly end. [default: 5]"
    ),
    "ack": _option(
        "--ack",
        type=_AckType(),
        metavar="memory|fsync|replicas:N",
        help="Where events are before publishing is answered with 202. [default: memory]",
    ),
    "certfile": _option(
        "--certfile",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Serve TLS with this certificate chain (PEM).",
    ),
    "keyfile": _option(
        "--keyfile",
        type=click.Path(dir_okay=False, path_type=Path),
        help="The certificate's private key, if it is not in the same file.",
    ),
    "max_connections": _option(
        "--max-connections",
        type=click.IntRange(0, 10_000_000),
        help="Connections that all web processes hold together; 0: no cap. [default: 50000]",
    ),
    "max_connections_per_address": _option(
        "--max-connections-per-address",
        type=click.IntRange(0, 10_000_000),
        help="And of one address that is not this machine's; 0: no cap. [default: 1000]",
    ),
    "io_uring": _option(
        "--io-uring/--no-io-uring",
        default=None,
        help="Hand a frame to the kernel once for many streams, where the kernel can. [default: --io-uring]",
    ),
    "wait": _option("--wait", is_flag=True, default=None, help="Wait for a Redis that does not answer yet."),
}


def _server_options(*names: str) -> Callable[[F], F]:
    """The named options, and ``--config``; the command receives Settings."""

    def decorate(command: F) -> F:
        def run(config: Path | None, **given: Any) -> Any:
            own = {name: given.pop(name) for name in names}
            logging.basicConfig(level=logging.INFO, format="pushsvc: %(message)s")
            return command(load(own, config), **given)

        run.__doc__, run.__name__ = command.__doc__, command.__name__
        run.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
        decorated: Any = _option(
            "--config",
            type=click.Path(dir_okay=False, path_type=Path),
            help="File with settings. [default: pushsvc.toml, if it is there]",
        )(run)
        for name in reversed(names):
            decorated = _OPTIONS[name](decorated)
        return decorated  # type: ignore[no-any-return]

    return decorate


@click.group(cls=_Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pushsvc")
def program() -> None:
    """Publish events, see rolling statistics of them live in the browser."""


_CONNECTIONS = ("max_connections", "max_connections_per_address")
_STREAMS = ("heartbeat", "io_uring")
_TLS = ("certfile", "keyfile")
_WEB = ("host", "port", "workers", "allow_host", "allow_origin", "insecure", "ack", *_STREAMS, *_CONNECTIONS)
_COMMON = ("redis", "prefix", "drain", "wait")


@program.command()
@_server_options(*_WEB, *_TLS, "aggregators", "data_dir", *_COMMON)
def serve(settings: Settings) -> None:
    """Run everything on this machine, with an embedded Valkey unless --redis names another."""
    check_bind(settings)
    _supervise(settings, web=settings.workers, aggregators=settings.aggregators)


@program.command()
@_server_options(*_WEB, *_TLS, *_COMMON)
def web(settings: Settings) -> None:
    """Run only the web processes; --redis is needed."""
    check_bind(settings)
    _need_redis(settings, "web")
    _supervise(settings, web=settings.workers)


@program.command()
@_server_options("aggregators", "metrics_host", "metrics_port", "allow_host", "insecure", *_COMMON)
def aggregator(settings: Settings) -> None:
    """Run only the aggregator processes; --redis is needed."""
    check_metrics_bind(settings)
    _need_redis(settings, "aggregator")
    _supervise(settings, aggregators=settings.aggregators)


def _need_redis(settings: Settings, command: str) -> None:
    if settings.redis is None:
        raise StartupError(f"pushsvc {command} shares a Redis with the other processes: name it with --redis URL")


def _supervise(settings: Settings, **roles: Any) -> None:
    from pushsvc.supervisor.supervisor import Supervisor

    Supervisor(settings, say=click.echo, **roles).run()


# Producing and watching


_URL = _option("--url", default=DEFAULT_URL, show_default=True, metavar="URL", help="The server to speak to.")


@program.command()
@click.argument("name", default="flights")
@_option("--url", metavar="URL", help="Only feed the server there, which runs already.")
@_option("--rate", type=click.FloatRange(0, min_open=True), default=40.0, show_default=True, help="Events per second.")
@_option(
    "--clock",
    type=click.Choice(["wall", "event"]),
    default="wall",
    show_default=True,
    help="Count events when they arrive, or at their own times.",
)
@_server_options(*_WEB, "aggregators", *_COMMON)
def demo(settings: Settings, name: str, url: str | None, rate: float, clock: str) -> None:
    """Show live data: a server of its own in a temporary folder, fed by the demo NAME (flights, feedback)."""
    from pushsvc.cli.demo import DEMOS

    if name not in DEMOS:
        raise StartupError(f"there is no demo {name!r}; there are {', '.join(DEMOS)}")
    if url is not None:
        _produce(name, url, rate, clock)
        return
    check_bind(settings)
    if clock == "event":
        rules = settings.topics
        settings = replace(settings, topics=replace(rules, rules=((name, _own_time()), *rules.rules)))
    if settings.certfile is not None:
        # The producer would not trust the certificate by 127.0.0.1.
        click.echo("the demo speaks plain HTTP: the certfile of the settings is not used")
    with private_folder("demo") as folder:
        settings = replace(settings, data_dir=folder, certfile=None, keyfile=None)
        producer = [name, "--rate", str(rate), "--clock", clock]
        _supervise(settings, web=settings.workers, aggregators=settings.aggregators, producer=producer)


def _own_time() -> TopicSettings:
    """Windows for flights at their scheduled times: some 40 an hour, none at night."""
    return TopicSettings(windows=tuple(map(Window.parse, ("1h", "6h", "24h"))), clock="event", jump=True)


def _produce(name: str, url: str, rate: float, clock: str) -> None:
    from pushsvc.cli.demo import run

    # Wherever it is, in a long read of its data too: events bear ids, so an interrupted request does no harm.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    run(name, url, rate, clock, threading.Event(), click.echo)


@program.command()
@click.argument("topic")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True), default="-")
@_URL
@click.option("--format", "kind", type=click.Choice(["csv", "ndjson", "json"]), help="[default: by name or content]")
@click.option("--id", "id_", metavar="COLUMN", help="CSV column with the events' ids.")
@click.option("--key", metavar="COLUMN", help="CSV column with their keys.")
@click.option("--time", metavar="COLUMN", help="CSV column with their times.")
@click.option("--type", "type_", metavar="COLUMN", help="CSV column with their types.")
@click.option("--speed", type=click.FloatRange(0, min_open=True), help="Replay by the events' times, moved to now.")
@click.option("--skip", is_flag=True, help="Leave out bad events instead of stopping at the first.")
def publish(topic: str, file: str, url: str, kind: str | None, speed: float | None, skip: bool, **columns: Any) -> None:
    """Publish the events of FILE, or of the standard input, to TOPIC, and print the receipt.

    CSV, NDJSON and JSON are read. A pipe's events are sent as they come.
    """
    from pushsvc.cli.publish import Feed, Pace, publish_file
    from pushsvc.client import Client

    def complain(text: str) -> None:
        click.echo(f"{file}: {text}", err=True)

    named = {name.rstrip("_"): column for name, column in columns.items() if column}
    pace = Pace(speed) if speed else None
    with Client(url) as client:
        feed = Feed(client, check_topic(topic), skip=skip, pace=pace, on_fault=complain)
        try:
            publish_file(feed, file, kind, named)
        except InvalidInput as error:
            raise click.ClickException(f"{file}: {error.detail}") from error
        finally:
            click.echo(json.dumps(feed.totals))


@program.command()
@click.argument("topic")
@click.option("--stats", is_flag=True, help="Show statistics instead of events.")
@click.option("--window", metavar="NAME", help="Which window of the statistics, such as 5m.")
@click.option("--after", metavar="CURSOR", default="", help="Begin after this place; 'earliest': at the beginning.")
@_URL
def tail(topic: str, url: str, stats: bool, window: str | None, after: str) -> None:
    """Print the events of TOPIC as they come, a JSON line each, or its statistics: a live table on a terminal."""
    from pushsvc.cli.tail import follow_events, follow_stats
    from pushsvc.client import Client

    check_topic(topic)
    with Client(url) as client:
        if stats:
            follow_stats(client.stats(topic, last_id=after, **({"window": window} if window else {})))
        else:
            follow_events(client.events(topic, last_id=after))


# The children of the supervisor


@program.command("_demo", hidden=True)
@click.argument("name")
@click.option("--url", required=True)
@click.option("--rate", type=float, required=True)
@click.option("--clock", required=True)
def demo_producer(name: str, url: str, rate: float, clock: str) -> None:
    """Feed the server of this supervisor."""
    _produce(name, url, rate, clock)


# From the environment: an argument would show a password in the list of processes.
_REDIS = _option("--redis", required=True, metavar="URL", help="The Redis or Valkey that the supervisor uses.")


def _child_settings() -> Settings:
    from pushsvc.supervisor.supervisor import SETTINGS_VARIABLE

    logging.basicConfig(level=logging.INFO, format=f"pushsvc[{os.getpid()}]: %(message)s")
    return Settings.decode(os.environ.pop(SETTINGS_VARIABLE))


@program.command("_web", hidden=True)
@click.option("--fd", type=int, required=True)
@click.option("--caps", nargs=2, type=int, required=True)
@_REDIS
def web_worker(fd: int, caps: tuple[int, int], redis: str) -> None:
    """Serve on an inherited listening socket, and count connections in an inherited table: its descriptor and a row."""
    from pushsvc.broker.broker import Broker
    from pushsvc.server.caps import Caps
    from pushsvc.server.serve import serve
    from pushsvc.server.tls import tls_context
    from pushsvc.web.app import create_app
    from pushsvc.web.security import Security

    settings = _child_settings()
    security = Security(settings.allow_host, settings.allow_origin, settings.insecure)
    broker = Broker(redis, settings.prefix, topics=settings.limits.partition_topics, ack=settings.ack)
    app = create_app(
        broker,
        settings.topics,
        security,
        settings.limits,
        heartbeat=settings.heartbeat,
        io_uring=settings.io_uring,
    )
    for descriptor in (fd, caps[0]):
        os.set_inheritable(descriptor, False)
    bounds = Caps(settings.max_connections, settings.max_connections_per_address, table=caps[0], row=caps[1])
    tls = None if settings.certfile is None else tls_context(settings.certfile, settings.keyfile)
    serve(app, socket.socket(fileno=fd), settings.drain, caps=bounds, tls=tls)


@program.command("_aggregator", hidden=True)
@click.option("--metrics-fd", type=int)
@_REDIS
def aggregator_worker(metrics_fd: int | None, redis: str) -> None:
    """Count; show figures on an inherited listening socket."""
    import gevent

    from pushsvc.broker.broker import Broker
    from pushsvc.worker.worker import AggregatorWorker

    settings = _child_settings()
    broker = Broker(redis, settings.prefix, topics=settings.limits.partition_topics)
    worker = AggregatorWorker(broker, settings.topics, settings.limits)
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, worker.stop)
    with nullcontext() if metrics_fd is None else _metrics(settings, metrics_fd):
        worker.run()


def _metrics(settings: Settings, descriptor: int) -> AbstractContextManager[None]:
    from pushsvc.server.caps import Caps
    from pushsvc.server.serve import serving
    from pushsvc.web.app import create_metrics_app
    from pushsvc.web.security import Security

    os.set_inheritable(descriptor, False)
    app = create_metrics_app(Security(settings.allow_host, (), settings.insecure))
    return serving(app, socket.socket(fileno=descriptor), Caps(_SCRAPERS))


@program.command("_part", hidden=True)
@click.argument("descriptor", type=int)
def part(descriptor: int) -> None:
    """Count a part of a topic."""
    from pushsvc.worker.shards import process

    logging.basicConfig(level=logging.INFO, format=f"pushsvc[{os.getpid()}]: %(message)s")
    process.run(descriptor)
