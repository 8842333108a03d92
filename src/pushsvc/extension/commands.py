"""``flask push aggregator``, ``token`` and ``tail``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click
from flask import Blueprint, current_app

from pushsvc.cli.tail import end_with_reader, print_events
from pushsvc.cli.terminal import log_to_terminal
from pushsvc.client import Client
from pushsvc.config import Settings
from pushsvc.errors import PushError, StartupError
from pushsvc.extension.links import PARAMETER, sign
from pushsvc.extension.question import Asked
from pushsvc.supervisor.supervisor import Supervisor
from pushsvc.topic import check_pattern, is_pattern

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pushsvc.sse import Message

_TAIL = 86_400.0  # seconds that the token of ``tail`` holds


def add_commands(blueprint: Blueprint, settings: Settings, url_prefix: str) -> None:
    """Add the commands to the group of a blueprint."""

    @blueprint.cli.command("aggregator", short_help="Count events for the statistics; needs PUSHSVC_REDIS.")
    def aggregator() -> None:
        """Run the aggregator processes of the application until Ctrl-C or SIGTERM."""
        log_to_terminal("pushsvc", settings.log_format, settings.log_level)
        with _Reported():
            if settings.redis is None:
                raise StartupError("aggregators share a Redis with the application: set PUSHSVC_REDIS")
            number = settings.aggregators or 1
            Supervisor(replace(settings, aggregators=number), aggregators=number, announce=click.echo).run()

    @blueprint.cli.command("token", short_help="Print a token to subscribe to a topic.")
    @click.argument("topic")
    @click.option("--key", metavar="KEY", help="Only events and rows with this key.")
    @click.option(
        "--lifetime", type=click.FloatRange(1, 2_592_000), default=600.0, show_default=True, metavar="SECONDS",
        help="Time until it expires.",
    )  # fmt: skip
    def token(topic: str, key: str | None, lifetime: float) -> None:
        """Print a token for the parameter `token` of a URL: it lets everybody who has it subscribe to TOPIC."""
        with _Reported():
            click.echo(_token(topic, key, lifetime))

    @blueprint.cli.command("tail", short_help="Print the events of a topic as they come.")
    @click.argument("topic")
    @click.option("--key", metavar="KEY", help="Only events with this key.")
    @click.option("--limit", type=click.IntRange(1), metavar="N", help="End after N events.")
    @click.option("--after", metavar="CURSOR", default="", help="Start after this cursor, or at 'earliest'.")
    @click.option(
        "--url", default="http://127.0.0.1:5000", show_default=True, metavar="URL", help="The running application."
    )
    def tail(topic: str, key: str | None, limit: int | None, after: str, url: str) -> None:
        """Print the events of TOPIC, or of topics that match a pattern, a JSON line each."""
        end_with_reader()
        with _Reported(), Client(url.rstrip("/") + url_prefix) as client:
            selected = {PARAMETER: _token(topic, key, _TAIL)} | ({} if key is None else {"key": key})
            messages: Iterator[Message]
            if is_pattern(topic):
                messages = client.stream(events=[topic], last_id=after, **selected)
            else:
                messages = client.events(topic, last_id=after, **selected)
            try:
                print_events(messages, limit=limit)
            except KeyboardInterrupt:
                return  # the usual end


def _token(topic: str, key: str | None, lifetime: float) -> str:
    return sign(current_app, Asked(check_pattern(topic), key), lifetime)


class _Reported:
    """Prints an error of ours, or of a missing setting, as one line and exits with code 1."""

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, PushError):
            raise click.ClickException(error.detail) from error
        if isinstance(error, RuntimeError | ValueError):
            raise click.ClickException(str(error)) from error
