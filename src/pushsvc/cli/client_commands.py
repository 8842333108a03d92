"""Commands that use a running server: publish and tail."""

from __future__ import annotations

import json

import click

from pushsvc.cli.options import option
from pushsvc.errors import InvalidInput
from pushsvc.topic import check_topic

_URL = option("--url", default="http://127.0.0.1:8000", show_default=True, metavar="URL", help="The server to use.")


@click.command()
@click.argument("topic")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True), default="-")
@_URL
@click.option("--format", "kind", type=click.Choice(["csv", "ndjson", "json"]), help="[default: by name or content]")
@click.option("--id", "id_", metavar="COLUMN", help="CSV column with the ids of the events.")
@click.option("--key", metavar="COLUMN", help="CSV column with their keys.")
@click.option("--time", metavar="COLUMN", help="CSV column with their times.")
@click.option("--type", "type_", metavar="COLUMN", help="CSV column with their types.")
@click.option("--speed", type=click.FloatRange(0, min_open=True), help="Replay by the events' times, moved to now.")
@click.option("--skip", is_flag=True, help="Leave out bad events instead of stopping at the first.")
def publish(
    topic: str, file: str, url: str, kind: str | None, speed: float | None, skip: bool, **columns: str | None
) -> None:
    """Publish the events of FILE, or of the standard input, to TOPIC, and print the receipt.

    The input is CSV, NDJSON or JSON. Events from a pipe are sent as they arrive.
    """
    from pushsvc.cli.publish import EventSender, ReplayClock, publish_file
    from pushsvc.client import Client

    def report(text: str) -> None:
        click.echo(f"{file}: {text}", err=True)

    named = {name.rstrip("_"): column for name, column in columns.items() if column}
    replay = ReplayClock(speed) if speed else None
    with Client(url) as client:
        sender = EventSender(client, check_topic(topic), skip=skip, replay=replay, on_fault=report)
        try:
            publish_file(sender, file, kind, named)
        except InvalidInput as error:
            raise click.ClickException(f"{file}: {error.detail}") from error
        finally:
            click.echo(json.dumps(sender.totals))


@click.command()
@click.argument("topic")
@click.option("--stats", is_flag=True, help="Show statistics instead of events.")
@click.option("--window", metavar="NAME", help="Window of the statistics, such as 5m.")
@click.option("--after", metavar="CURSOR", default="", help="Start after this cursor; 'earliest': at the first event.")
@_URL
def tail(topic: str, url: str, stats: bool, window: str | None, after: str) -> None:
    """Print the events of TOPIC as they come, a JSON line each, or its statistics: a live table on a terminal."""
    from pushsvc.cli.tail import print_events, show_stats
    from pushsvc.client import Client

    check_topic(topic)
    with Client(url) as client:
        if stats:
            show_stats(client.stats(topic, last_id=after, **({"window": window} if window else {})))
        else:
            print_events(client.events(topic, last_id=after))


COMMANDS = (publish, tail)
