"""The processes that the supervisor and aggregators start: commands that users do not see.

Each command imports what it needs when it runs.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import threading
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pushsvc.cli.credentials import token_from, token_option
from pushsvc.cli.terminal import log_to_terminal, visible
from pushsvc.errors import PushError

if TYPE_CHECKING:
    from pushsvc.config import Settings
    from pushsvc_client.credentials import Token

log = logging.getLogger(__name__)

_LOG_FORMAT, _LOG_LEVEL = "PUSHSVC_LOG_FORMAT", "PUSHSVC_LOG_LEVEL"
_METRICS_CONNECTIONS = 64  # most connections to the metrics port of an aggregator


def run_producer(name: str, url: str, rate: float, clock: str, token: Token | None) -> None:
    """Publish a demo's events to the server at ``url`` until SIGTERM or SIGINT."""
    from pushsvc.cli.demo import run

    # The signal may end the process anywhere, even while it reads its data: event ids make a cut request harmless.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    run(name, url, rate, clock, threading.Event(), lambda text: click.echo(visible(text)), token)


@click.command("_demo", hidden=True)
@click.argument("name")
@click.option("--url", required=True)
@click.option("--rate", type=float, required=True)
@click.option("--clock", required=True)
@token_option
def demo_producer(name: str, url: str, rate: float, clock: str, token_file: Path | None) -> None:
    """Publish a demo's events to the server of this supervisor."""
    run_producer(name, url, rate, clock, token_from(token_file))


@click.command("_web", hidden=True)
@click.option("--fd", type=int, required=True)
@click.option("--caps", nargs=2, type=int, required=True)
@click.option("--behind")
def web_worker(fd: int, caps: tuple[int, int], behind: str | None) -> None:
    """Serve on an inherited listener; count connections in an inherited table (its descriptor and a row).

    ``behind`` describes the application that has the listener together with us, as JSON.
    """
    from pushsvc.broker.broker import Broker
    from pushsvc.config.access import access_of
    from pushsvc.server.caps import Caps
    from pushsvc.server.client_address import TrustedProxies
    from pushsvc.server.gateway.gateway import Behind
    from pushsvc.server.serve import serve
    from pushsvc.server.tls import tls_context
    from pushsvc.supervisor.heartbeat import start_heartbeat
    from pushsvc.web.app import create_app
    from pushsvc.web.application import Application
    from pushsvc.web.jwks import fetched_keys
    from pushsvc.web.security import Security

    settings, redis = _child_settings()
    access = access_of(settings, fetched_keys)
    security = Security(
        settings.allow_host, settings.allow_origin, settings.insecure, settings.host,
        settings.allow_read_origin, settings.allow_write_origin,
        any_host=access is not None and not access.anonymous and settings.authorize_url is None,
    )  # fmt: skip
    broker = Broker(redis, settings.prefix, topics=settings.limits.partition_topics, ack=settings.ack)
    application = None
    if settings.authorize_url is not None:
        application = Application(
            settings.authorize_url, settings.authorize_headers, settings.authorize_timeout,
            lifetime=settings.token_lifetime,
        )  # fmt: skip
    app = create_app(
        broker, settings.topics, security, settings.limits, access=access, application=application,
        heartbeat=settings.heartbeat, io_uring=settings.io_uring, alerts=settings.alert_settings,
    )  # fmt: skip
    in_front = None
    if behind is not None:
        found = json.loads(behind)
        os.set_inheritable(found["inner"], False)
        found["inner"] = socket.socket(fileno=found["inner"])
        in_front = Behind(**found, heartbeat=settings.heartbeat)
    for descriptor in (fd, caps[0]):
        os.set_inheritable(descriptor, False)
    bounds = Caps(settings.max_connections, settings.max_connections_per_address, table=caps[0], row=caps[1])
    start_heartbeat()
    tls = None if settings.certfile is None else tls_context(settings.certfile, settings.keyfile)
    serve(
        app, socket.socket(fileno=fd), settings.drain, caps=bounds, tls=tls,
        proxies=TrustedProxies(settings.trusted_proxy), access_log=settings.access_log, behind=in_front,
    )  # fmt: skip


@click.command("_app", hidden=True)
@click.argument("app")
@click.option("--socket", "path", required=True)
@click.option("--report", type=click.Path(path_type=Path), required=True)
@click.option("--processes", type=int, required=True)
@click.option("--threads", type=int, required=True)
@click.option("--drain", type=int, required=True)
@click.option("--questions", is_flag=True)
def app_server(
    app: str, path: str, report: Path, processes: int, threads: int, drain: int, questions: bool
) -> None:  # fmt: skip
    """Serve the pages of the user's application on a Unix socket, or only say what requests may do."""
    from pushsvc.supervisor.app_server import AppServer
    from pushsvc.supervisor.served import read_served

    settings = read_served(answers_questions=questions).settings
    level = settings.log_level if settings.log_level != "info" else "warning"
    AppServer(
        app, socket=path, processes=processes, threads=threads, drain=max(1, drain // 2), report=report,
        log_level=level,
    ).run()  # fmt: skip


@click.command("_application", hidden=True)
@click.option("--report", type=int, required=True)
def application_server(report: int) -> None:
    """Serve a Flask application with the extension. Write our address, or why there is none, to a descriptor."""
    from pushsvc.supervisor.supervisor import Supervisor

    def tell(**said: str) -> None:
        os.write(report, json.dumps(said).encode() + b"\n")

    settings, _ = _child_settings()
    os.set_inheritable(report, False)
    try:
        Supervisor(
            settings, web=settings.workers, aggregators=settings.aggregators, announce=log.debug,
            on_ready=lambda address: tell(address=address),
        ).run()  # fmt: skip
    except PushError as error:
        tell(error=error.detail)
        raise


@click.command("_aggregator", hidden=True)
@click.option("--metrics-fd", type=int)
def aggregator_worker(metrics_fd: int | None) -> None:
    """Aggregate events; serve metrics on an inherited listener if there is one."""
    import gevent

    from pushsvc.broker.broker import Broker
    from pushsvc.supervisor.heartbeat import start_heartbeat
    from pushsvc.worker.worker import AggregatorWorker

    settings, redis = _child_settings()
    broker = Broker(redis, settings.prefix, topics=settings.limits.partition_topics)
    worker = AggregatorWorker(
        broker, settings.topics, settings.limits, alerts=settings.alert_settings, on_begin=start_heartbeat()
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, worker.stop)
    with nullcontext() if metrics_fd is None else _metrics_server(settings, metrics_fd):
        worker.run()


def _metrics_server(settings: Settings, descriptor: int) -> AbstractContextManager[None]:
    from pushsvc.server.caps import Caps
    from pushsvc.server.serve import serving
    from pushsvc.web.app import create_metrics_app
    from pushsvc.web.security import Security

    os.set_inheritable(descriptor, False)
    app = create_metrics_app(Security(settings.allow_host, (), settings.insecure, settings.metrics_host))
    return serving(app, socket.socket(fileno=descriptor), Caps(_METRICS_CONNECTIONS))


@click.command("_worker", hidden=True)
@click.option("--app", required=True)
@click.option("--reload", is_flag=True)
@click.option("--metrics-fd", type=int)
def component_worker(app: str, reload: bool, metrics_fd: int | None) -> None:
    """Lease partitions for the handlers of an application, and let a child process run them."""
    import gevent

    from pushsvc.broker.broker import Broker
    from pushsvc.components.start import run_worker
    from pushsvc.supervisor.heartbeat import start_heartbeat

    settings, redis = _child_settings()
    broker = Broker(redis, settings.prefix, topics=settings.limits.partition_topics)
    on_begin = start_heartbeat()
    with nullcontext() if metrics_fd is None else _metrics_server(settings, metrics_fd):
        run_worker(
            broker, settings.topics, app, reload=reload, on_signal=gevent.signal_handler, on_begin=on_begin
        )  # fmt: skip


@click.command("_components", hidden=True)
@click.argument("app")
@click.argument("descriptor", type=int)
def component_handlers(app: str, descriptor: int) -> None:
    """Run the handlers of an application for a worker."""
    from pushsvc.components import process

    _log_with_pid(os.environ.get(_LOG_FORMAT, "text"), os.environ.get(_LOG_LEVEL, "info"))
    process.run(app, descriptor)


@click.command("_shard", hidden=True)
@click.argument("descriptor", type=int)
def shard_worker(descriptor: int) -> None:
    """Aggregate one shard of a topic for an aggregator."""
    from pushsvc.worker.shards import process

    _log_with_pid(os.environ.get(_LOG_FORMAT, "text"), os.environ.get(_LOG_LEVEL, "info"))
    process.run(descriptor)


def _child_settings() -> tuple[Settings, str]:
    """Return the settings that the supervisor shares, and the URL of its Redis."""
    from pushsvc.supervisor.child_settings import read_settings

    settings = read_settings()
    _log_with_pid(settings.log_format, settings.log_level)
    os.environ |= {_LOG_FORMAT: settings.log_format, _LOG_LEVEL: settings.log_level}  # for shards
    return settings, settings.redis or ""


def _log_with_pid(form: str, level: str) -> None:
    log_to_terminal(f"pushsvc[{os.getpid()}]", form, level)


PROCESSES = (
    demo_producer, web_worker, app_server, application_server, aggregator_worker, component_worker, component_handlers,
    shard_worker,
)  # fmt: skip
