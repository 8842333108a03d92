"""The program ``pushsvc`` and its commands.

Each command imports what it needs when it runs: a shell starts this program for every completion.
"""

from __future__ import annotations

import json
import os
import secrets
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pushsvc import __version__
from pushsvc.cli.credentials import token_from, token_option, url_option
from pushsvc.cli.event import event
from pushsvc.cli.options import COMMON, TLS, WEB, option, server_options
from pushsvc.cli.processes import PROCESSES, run_producer
from pushsvc.cli.terminal import visible, visible_lines
from pushsvc.cli.token import token
from pushsvc.errors import InvalidInput, PushError, StartupError
from pushsvc.supervisor.folders import private_folder
from pushsvc.topic import check_pattern, check_topic, is_pattern, matches

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pushsvc.broker.broker import Broker
    from pushsvc.clean import Cleaned
    from pushsvc.client import Client
    from pushsvc.config import Settings
    from pushsvc.settings import TopicSettings
    from pushsvc.sse import Message


class _Program(click.Group):
    """Prints a PushError as one line and exits with code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PushError as error:
            raise click.ClickException(visible_lines(error.detail)) from error


@click.group(cls=_Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="pushsvc")
def program() -> None:
    """Publish events and watch rolling statistics of them live in the browser."""


# Servers under the supervisor


@program.command(short_help="Run everything on this machine.")
@click.option("--components", metavar="MODULE[:OBJECT]", help="Also run the handlers that this module registers.")
@click.option("--app", metavar="MODULE:OBJECT", help="Also run this WSGI application with Push(app), at the same port.")
@click.option(
    "--app-processes", type=click.IntRange(1, 64), default=2, show_default=True, help="Processes of the application."
)
@click.option(
    "--app-threads", type=click.IntRange(1, 1_000), default=8, show_default=True, help="Threads of each of them."
)
@server_options(*WEB, *TLS, "aggregators", "data_dir", "maxmemory", "metrics_host", "metrics_port", *COMMON)
def serve(settings: Settings, components: str | None, app: str | None, app_processes: int, app_threads: int) -> None:
    """Run everything on this machine, with an embedded Valkey unless --redis names a server."""
    from pushsvc.supervisor.application import ApplicationProcesses
    from pushsvc.supervisor.supervisor import ComponentProcesses

    application = None
    if app is not None:
        if settings.authorizes:
            raise StartupError(
                "--app: the application says who may do what; remove the keys and grants of the settings"
            )
        application = ApplicationProcesses(app, app_processes, app_threads)
        settings = replace(settings, jwt_key=secrets.token_urlsafe(32), jwt_needs_expiry=True, jwt_leeway=1)
    workers = None if components is None else ComponentProcesses(components)
    _supervise(
        settings, web=settings.workers, aggregators=settings.aggregators, components=workers, application=application
    )  # fmt: skip


@program.command()
@server_options(*WEB, *TLS, *COMMON)
def web(settings: Settings) -> None:
    """Run only the web processes; needs --redis."""
    _supervise(settings, web=settings.workers)


@program.command()
@server_options("aggregators", "metrics_host", "metrics_port", "allow_host", "insecure", "webhook_hosts", *COMMON)
def aggregator(settings: Settings) -> None:
    """Run only the aggregator processes; needs --redis."""
    _supervise(settings, aggregators=settings.aggregators)


@program.command(short_help="Show live data of a demo.")
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
@token_option
@server_options(*WEB, "aggregators", "maxmemory", *COMMON)
def demo(
    settings: Settings, name: str, url: str | None, rate: float, clock: str, token_file: Path | None
) -> None:  # fmt: skip
    """Show live data of the demo NAME (flights, feedback).

    It starts a server with its data in a temporary folder, unless --url names a running one."""
    from pushsvc.cli.demo import check_demo

    check_demo(name)
    if url is not None:
        run_producer(name, url, rate, clock, token_from(token_file))
        return
    anybody = any(matches(topics, name) for topics in settings.anonymous_publish)
    if settings.authorizes and not anybody and token_from(token_file) is None:
        raise StartupError(
            f"the demo needs a token to publish: name it with --token-file, or allow --anonymous-publish {name}"
        )
    if clock == "event":
        rules = settings.topics
        settings = replace(settings, topics=replace(rules, rules=((name, _event_clock()), *rules.rules)))
    if settings.certfile is not None:
        # The producer connects to 127.0.0.1, which the certificate does not name.
        click.echo("the demo uses plain HTTP: it ignores the certfile of the settings")
    with private_folder("demo") as folder:
        settings = replace(settings, data_dir=folder, certfile=None, keyfile=None)
        producer = [name, "--rate", str(rate), "--clock", clock]
        producer += [] if token_file is None else ["--token-file", str(token_file)]
        _supervise(settings, web=settings.workers, aggregators=settings.aggregators, producer=producer)


def _event_clock() -> TopicSettings:
    """Return the settings for flights at their scheduled times: about 40 an hour, none at night."""
    from pushsvc.settings import TopicSettings
    from pushsvc.stats.window import Window

    return TopicSettings(windows=tuple(map(Window.parse, ("1h", "6h", "24h"))), clock="event", jump=True)


def _supervise(settings: Settings, **roles: Any) -> None:
    from pushsvc.supervisor.preflight import check_bind
    from pushsvc.supervisor.supervisor import Supervisor

    check_bind(settings, web="web" in roles, metrics="aggregators" in roles or "components" in roles)
    if settings.redis is None and not {"web", "aggregators"} <= roles.keys():
        command = "web" if "web" in roles else "worker" if "components" in roles else "aggregator"
        raise StartupError(f"pushsvc {command} shares a Redis with the other processes: name it with --redis URL")
    Supervisor(settings, announce=click.echo, **roles).run()


class _WorkerGroup(click.Group):
    """Runs a worker if no command is named."""

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, "--app MODULE[:OBJECT] [OPTIONS] | COMMAND [OPTIONS]")


@program.group("worker", cls=_WorkerGroup, invoke_without_command=True, short_help="Run components of a module.")
@click.option("--app", metavar="MODULE[:OBJECT]", help="The module that registers handlers.")
@option("--processes", type=click.IntRange(1, 64), default=1, show_default=True, help="Workers, each a process.")
@click.option("--reload", is_flag=True, help="Start again when a file of the module changes: for development.")
@server_options("metrics_host", "metrics_port", "allow_host", "insecure", *COMMON)
@click.pass_context
def worker(ctx: click.Context, settings: Settings, app: str | None, processes: int, reload: bool) -> None:
    """Run the handlers that MODULE registers with pushsvc.on; needs --redis."""
    ctx.obj = settings
    if ctx.invoked_subcommand is not None:
        return
    if app is None:
        raise click.UsageError("Missing option '--app'.")
    from pushsvc.supervisor.supervisor import ComponentProcesses

    _supervise(settings, components=ComponentProcesses(app, processes, reload))


@worker.command(short_help="Try events again that handlers gave up.")
@click.argument("topic")
@click.option("--group", metavar="NAME", help="Only those that this group gave up.")
@click.option("--again", is_flag=True, help="Also those that were replayed before.")
@click.pass_obj
def replay(settings: Settings, topic: str, group: str | None, again: bool) -> None:
    """Hand the events of TOPIC, such as orders.dead, to the groups that gave them up, and print how many."""
    from dataclasses import asdict

    from pushsvc.components.replay import replay

    with closing(_broker_of(settings)) as broker:
        click.echo(json.dumps(asdict(replay(broker, topic, group=group, again=again))))


@worker.command(short_help="Show how far the groups are.")
@click.pass_obj
def status(settings: Settings) -> None:
    """Print for each group its lag, failed events, timers and unknown types, as JSON."""
    from pushsvc.components.status import status

    with closing(_broker_of(settings)) as broker:
        click.echo(json.dumps(status(broker), indent=2, ensure_ascii=False))


def _broker_of(settings: Settings) -> Broker:
    """Return the Redis that the settings name. Raise StartupError."""
    from pushsvc.broker.broker import Broker
    from pushsvc.supervisor.preflight import redis_url

    url = redis_url(settings)
    if url is None:
        raise StartupError("the groups are in a Redis: name it with --redis URL before the command, or PUSHSVC_REDIS")
    return Broker(url, settings.prefix)


# Clients of a running server


@program.command(short_help="Publish events from a file or a pipe.")
@click.argument("topic")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True), default="-")
@url_option
@token_option
@click.option("--format", "kind", type=click.Choice(["csv", "ndjson", "json"]), help="[default: by name or content]")
@click.option("--id", "id_", metavar="COLUMN", help="CSV column with the ids of the events.")
@click.option("--key", metavar="COLUMN", help="CSV column with their keys.")
@click.option("--time", metavar="COLUMN", help="CSV column with their times.")
@click.option("--type", "type_", metavar="COLUMN", help="CSV column with their types.")
@click.option("--speed", type=click.FloatRange(0, min_open=True), help="Replay by the events' times, moved to now.")
@click.option("--skip", is_flag=True, help="Leave out bad events instead of stopping at the first.")
@click.option(
    "--clean", "rules", type=click.Path(exists=True, dir_okay=False), help="Clean them by rules in this file."
)
@click.option("--dry-run", is_flag=True, help="With --clean: print what the rules do and publish nothing.")
@click.option(
    "--refused", type=click.Path(dir_okay=False), help="With --clean: write the refused rows to this CSV file."
)
def publish(
    topic: str, file: str, url: str, token_file: Path | None, kind: str | None, speed: float | None, skip: bool,
    dry_run: bool, **names: str | None,
) -> None:  # fmt: skip
    """Publish the events of FILE, or of the standard input, to TOPIC, and print the receipt.

    The input is CSV, NDJSON or JSON. Events from a pipe are sent as they arrive, unless they are cleaned.
    """
    from pushsvc.cli.clean import publish_table
    from pushsvc.cli.publish import EventSender, ReplayClock, publish_file
    from pushsvc.client import Client

    rules, refused = names.pop("rules"), names.pop("refused")
    if rules is None and (dry_run or refused):
        raise click.UsageError("--dry-run and --refused go with --clean")

    def report(text: str) -> None:
        click.echo(visible_lines(f"{file}: {text}"), err=True)

    named = {name.rstrip("_"): column for name, column in names.items() if column}
    replay = ReplayClock(speed) if speed else None
    with Client(url, token=token_from(token_file)) as client:
        sender = EventSender(client, check_topic(topic), skip=skip, replay=replay, on_fault=report)
        try:
            if rules is None:
                publish_file(sender, file, kind, named)
            else:
                cleaned = _clean(file, kind, rules, refused)
                sender.totals["cleaned"] = [entry.public() for entry in cleaned.report]
                if not dry_run:
                    publish_table(sender, cleaned.table, named)
        except InvalidInput as error:
            raise click.ClickException(visible_lines(f"{file}: {error.detail}")) from error
        finally:
            click.echo(json.dumps(sender.totals))


def _clean(file: str, kind: str | None, rules: str, refused: str | None) -> Cleaned:
    """Return a file after the rules in another one, and print the report; write the refused rows to a third."""
    from pushsvc.cli.clean import clean_file, show

    cleaned = clean_file(file, kind, rules)
    show(cleaned)
    if refused is not None:
        cleaned.refused.to_csv(refused, index_label="line")
    return cleaned


@program.command(short_help="Write all events of a topic to a file.")
@click.argument("topic")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True), default="-")
@url_option
@token_option
@click.option(
    "--format", "kind", type=click.Choice(["ndjson", "csv", "parquet"]), help="[default: by name, else ndjson]",
)  # fmt: skip
@click.option("--key", metavar="KEY", help="Only events with this key.")
@click.option(
    "--by", multiple=True, metavar="FIELD=VALUE", help="Only events with this value of a field that the topic has an "
    "index of (repeatable).",
)  # fmt: skip
@click.option("--type", "type_", metavar="TYPE", help="Only events of this type.")
@click.option(
    "--where", multiple=True, metavar="CONDITION", help="Only events with, for example, 'rating<3' (repeatable; all "
    "must hold).",
)  # fmt: skip
@click.option("--since", metavar="TIME", help="Only events from this time on, such as 2026-01-31T12:00:00Z.")
@click.option("--until", metavar="TIME", help="Only events before this time.")
def export(
    topic: str, file: str, url: str, token_file: Path | None, kind: str | None, type_: str | None, by: tuple[str, ...],
    **selected: str | tuple[str, ...] | None,
) -> None:  # fmt: skip
    """Write the events that TOPIC has now as NDJSON, CSV or Parquet to FILE, or to the standard output, oldest first.

    FILE gets its name when it is whole."""
    from pushsvc.cli.export import check, format_of, span_of, values_of, write
    from pushsvc.client import Client

    kind = kind or format_of(file)
    check(file, kind)
    query = {name: value for name, value in {**values_of(by), **selected, "type": type_}.items() if value}
    with Client(url, token=token_from(token_file)) as client:
        pieces = client.export(check_topic(topic), "ndjson" if kind == "parquet" else kind, **query)
        write(pieces, file, kind, lambda: span_of(client.topic(topic)))


@program.command(short_help="Print events or statistics as they come.")
@click.argument("topic")
@click.option("--stats", is_flag=True, help="Show statistics instead of events.")
@click.option("--window", metavar="NAME", help="Show the statistics of this window, such as 5m; * for all windows.")
@click.option("--key", "keys", multiple=True, metavar="KEY", help="Show only this key; '' for none (repeatable).")
@click.option(
    "--where", "conditions", multiple=True, metavar="CONDITION", help="Show only events with, for example, 'rating<3' "
    "(repeatable; all must hold).",
)  # fmt: skip
@click.option("--limit", type=click.IntRange(1), metavar="N", help="End after N events, or N frames of statistics.")
@click.option("--after", metavar="CURSOR", default="", help="Start after this cursor; 'earliest': at the first event.")
@url_option
@token_option
def tail(
    topic: str, url: str, token_file: Path | None, stats: bool, window: str | None, keys: tuple[str, ...],
    conditions: tuple[str, ...], limit: int | None, after: str,
) -> None:  # fmt: skip
    """Print the events of TOPIC as they come, a JSON line each, or its statistics: live tables on a terminal.

    TOPIC may be a pattern: in 'orders.*' the * stands for one segment of a name, in 'orders.>' the > for all further
    ones. If the connection is lost, tail waits for the server and continues after the last event.

    --key and --where select events with the rules of the history (where=). The server selects them, but for patterns
    and for several keys: then it sends all events, and this program selects.
    """
    from pushsvc.cli.tail import end_with_reader, print_events, selection, show_stats
    from pushsvc.client import Client

    check_pattern(topic)
    stats = stats or window is not None
    if stats and conditions:
        raise click.UsageError("--where selects events; statistics can be selected by --key and --window")
    selects = selection(keys, conditions)
    end_with_reader()
    with Client(url, token=token_from(token_file), on_outage=_report_outage) as client:
        try:
            if stats:
                chosen = {"window": window} if window else {}
                show_stats(client.stream(stats=[topic], last_id=after, key=keys, **chosen), limit)
            else:
                print_events(_selected(client, topic, keys, conditions, after), selects, limit)
        except KeyboardInterrupt:
            return  # the usual end of a command that runs forever
        except BrokenPipeError:
            os._exit(0)  # an orderly exit would try to write the same line again, and complain


def _selected(
    client: Client, topic: str, keys: Sequence[str], conditions: Sequence[str], after: str
) -> Iterator[Message]:
    """Return a stream of events, selected by the server as far as it can."""
    if is_pattern(topic) or len(keys) > 1 or "" in keys:
        return client.stream(events=[topic], last_id=after)
    key = {"key": keys[0]} if keys else {}
    return client.events(topic, last_id=after, where=conditions, **key)


def _report_outage(reason: str | None) -> None:
    click.echo("pushsvc: connected again" if reason is None else visible(f"pushsvc: waiting: {reason}"), err=True)


program.add_command(event)
program.add_command(token)
for process in PROCESSES:
    program.add_command(process)
