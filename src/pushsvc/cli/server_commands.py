"""Commands that run a server under the supervisor: serve, web, aggregator and demo."""

from __future__ import annotations

import signal
import sys
import threading
from dataclasses import replace
from typing import Any

import click

from pushsvc.cli.options import COMMON, TLS, WEB, option, server_options
from pushsvc.config import Settings, check_bind, check_metrics_bind
from pushsvc.errors import StartupError
from pushsvc.settings import TopicSettings
from pushsvc.stats.window import Window
from pushsvc.supervisor.folders import private_folder


@click.command()
@server_options(*WEB, *TLS, "aggregators", "data_dir", *COMMON)
def serve(settings: Settings) -> None:
    """Run everything on this machine, with an embedded Valkey unless --redis names a server."""
    check_bind(settings)
    _supervise(settings, web=settings.workers, aggregators=settings.aggregators)


@click.command()
@server_options(*WEB, *TLS, *COMMON)
def web(settings: Settings) -> None:
    """Run only the web processes; needs --redis."""
    check_bind(settings)
    _check_redis_given(settings, "web")
    _supervise(settings, web=settings.workers)


@click.command()
@server_options("aggregators", "metrics_host", "metrics_port", "allow_host", "insecure", *COMMON)
def aggregator(settings: Settings) -> None:
    """Run only the aggregator processes; needs --redis."""
    check_metrics_bind(settings)
    _check_redis_given(settings, "aggregator")
    _supervise(settings, aggregators=settings.aggregators)


@click.command()
@click.argument("name", default="flights")
@option("--url", metavar="URL", help="Publish to this running server instead of starting one.")
@option("--rate", type=click.FloatRange(0, min_open=True), default=40.0, show_default=True, help="Events per second.")
@option(
    "--clock",
    type=click.Choice(["wall", "event"]),
    default="wall",
    show_default=True,
    help="Count events by their arrival, or by their own times.",
)
@server_options(*WEB, "aggregators", *COMMON)
def demo(settings: Settings, name: str, url: str | None, rate: float, clock: str) -> None:
    """Show live data of the demo NAME (flights, feedback), on a server of its own in a temporary folder."""
    from pushsvc.cli.demo import check_demo

    check_demo(name)
    if url is not None:
        run_producer(name, url, rate, clock)
        return
    check_bind(settings)
    if clock == "event":
        rules = settings.topics
        settings = replace(settings, topics=replace(rules, rules=((name, _event_clock()), *rules.rules)))
    if settings.certfile is not None:
        # The producer connects to 127.0.0.1, which the certificate does not name.
        click.echo("the demo uses plain HTTP: it ignores the certfile of the settings")
    with private_folder("demo") as folder:
        settings = replace(settings, data_dir=folder, certfile=None, keyfile=None)
        producer = [name, "--rate", str(rate), "--clock", clock]
        _supervise(settings, web=settings.workers, aggregators=settings.aggregators, producer=producer)


def run_producer(name: str, url: str, rate: float, clock: str) -> None:
    """Publish a demo's events to the server at ``url`` until SIGTERM or SIGINT."""
    from pushsvc.cli.demo import run

    # The signal may end the process anywhere, even while it reads its data: event ids make a cut request harmless.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    run(name, url, rate, clock, threading.Event(), click.echo)


def _event_clock() -> TopicSettings:
    """Return the settings for flights at their scheduled times: about 40 an hour, none at night."""
    return TopicSettings(windows=tuple(map(Window.parse, ("1h", "6h", "24h"))), clock="event", jump=True)


def _check_redis_given(settings: Settings, command: str) -> None:
    if settings.redis is None:
        raise StartupError(f"pushsvc {command} shares a Redis with the other processes: name it with --redis URL")


def _supervise(settings: Settings, **roles: Any) -> None:
    from pushsvc.supervisor.supervisor import Supervisor

    Supervisor(settings, announce=click.echo, **roles).run()


COMMANDS = (serve, web, aggregator, demo)
