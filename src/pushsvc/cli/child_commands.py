"""Hidden commands: the child processes that the supervisor and the aggregators start."""

from __future__ import annotations

import logging
import os
import signal
import socket
from contextlib import AbstractContextManager, nullcontext

import click

from pushsvc.cli.options import option
from pushsvc.cli.server_commands import run_producer
from pushsvc.config import Settings

_METRICS_CONNECTIONS = 64
"""Most connections to the metrics port of an aggregator."""

# Passed in the environment: an argument would show a password in the process list.
_REDIS = option("--redis", required=True, metavar="URL", help="The Redis or Valkey that the supervisor uses.")


@click.command("_demo", hidden=True)
@click.argument("name")
@click.option("--url", required=True)
@click.option("--rate", type=float, required=True)
@click.option("--clock", required=True)
def demo_producer(name: str, url: str, rate: float, clock: str) -> None:
    """Publish a demo's events to the server of this supervisor."""
    run_producer(name, url, rate, clock)


@click.command("_web", hidden=True)
@click.option("--fd", type=int, required=True)
@click.option("--caps", nargs=2, type=int, required=True)
@_REDIS
def web_worker(fd: int, caps: tuple[int, int], redis: str) -> None:
    """Serve on an inherited listener; count connections in an inherited table (its descriptor and a row)."""
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
        broker, settings.topics, security, settings.limits, heartbeat=settings.heartbeat, io_uring=settings.io_uring
    )
    for descriptor in (fd, caps[0]):
        os.set_inheritable(descriptor, False)
    bounds = Caps(settings.max_connections, settings.max_connections_per_address, table=caps[0], row=caps[1])
    tls = None if settings.certfile is None else tls_context(settings.certfile, settings.keyfile)
    serve(app, socket.socket(fileno=fd), settings.drain, caps=bounds, tls=tls)


@click.command("_aggregator", hidden=True)
@click.option("--metrics-fd", type=int)
@_REDIS
def aggregator_worker(metrics_fd: int | None, redis: str) -> None:
    """Aggregate events; serve metrics on an inherited listener if there is one."""
    import gevent

    from pushsvc.broker.broker import Broker
    from pushsvc.worker.worker import AggregatorWorker

    settings = _child_settings()
    broker = Broker(redis, settings.prefix, topics=settings.limits.partition_topics)
    worker = AggregatorWorker(broker, settings.topics, settings.limits)
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
    app = create_metrics_app(Security(settings.allow_host, (), settings.insecure))
    return serving(app, socket.socket(fileno=descriptor), Caps(_METRICS_CONNECTIONS))


@click.command("_shard", hidden=True)
@click.argument("descriptor", type=int)
def shard_worker(descriptor: int) -> None:
    """Aggregate one shard of a topic for an aggregator."""
    from pushsvc.worker.shards import process

    _log_with_pid()
    process.run(descriptor)


def _child_settings() -> Settings:
    from pushsvc.supervisor.supervisor import SETTINGS_VARIABLE

    _log_with_pid()
    return Settings.decode(os.environ.pop(SETTINGS_VARIABLE))


def _log_with_pid() -> None:
    logging.basicConfig(level=logging.INFO, format=f"pushsvc[{os.getpid()}]: %(message)s")


COMMANDS = (demo_producer, web_worker, aggregator_worker, shard_worker)
