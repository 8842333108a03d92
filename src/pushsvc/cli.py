"""The command line: what is asked for, put together."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from pushsvc import __version__
from pushsvc.config import Settings, check_bind, load
from pushsvc.errors import PushError, StartupError

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
    name = names[0].lstrip("-").replace("-", "_").upper()
    return click.option(*names, envvar=f"PUSHSVC_{name}", show_envvar=True, **settings)


_PORT = click.IntRange(0, 65_535)
_OPTIONS: dict[str, Callable[[Any], Any]] = {
    "host": _option("--host", help="Address to listen on. [default: 127.0.0.1]"),
    "port": _option("--port", type=_PORT, help="Port to listen on; 0 takes a free one. [default: 8000]"),
    "redis": _option("--redis", metavar="URL", help="Redis or Valkey to use, such as redis://host:6379/0."),
    "prefix": _option("--prefix", help="Begins all keys and channels in Redis. [default: pushsvc:]"),
    "data_dir": _option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        help="Where the embedded server keeps its data when no --redis is named. [default: pushsvc-data]",
    ),
    "workers": _option("--workers", type=click.IntRange(1, 256), help="Web processes. [default: 1]"),
    "aggregators": _option("--aggregators", type=click.IntRange(1, 64), help="Aggregator processes. [default: 1]"),
    "allow_host": _option(
        "--allow-host", multiple=True, metavar="NAME", help="Also answer requests for this Host (repeatable)."
    ),
    "allow_origin": _option(
        "--allow-origin", multiple=True, metavar="ORIGIN", help="Let pages of this Origin read and write (repeatable)."
    ),
    "insecure": _option(
        "--insecure", is_flag=True, default=None, help="Listen where others can reach it, without credentials."
    ),
    "drain": _option(
        "--drain", type=click.IntRange(0, 3600), metavar="SECONDS", help="Time for an orderly end. [default: 5]"
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


_WEB = ("host", "port", "workers", "allow_host", "allow_origin", "insecure")
_COMMON = ("redis", "prefix", "drain", "wait")


@program.command()
@_server_options(*_WEB, "aggregators", "data_dir", *_COMMON)
def serve(settings: Settings) -> None:
    """Run everything on this machine, with an embedded Valkey unless --redis names another."""
    check_bind(settings)
    _supervise(settings, web=settings.workers, aggregators=settings.aggregators)


@program.command()
@_server_options(*_WEB, *_COMMON)
def web(settings: Settings) -> None:
    """Run only the web processes; --redis is needed."""
    check_bind(settings)
    _need_redis(settings, "web")
    _supervise(settings, web=settings.workers)


@program.command()
@_server_options("aggregators", *_COMMON)
def aggregator(settings: Settings) -> None:
    """Run only the aggregator processes; --redis is needed."""
    _need_redis(settings, "aggregator")
    _supervise(settings, aggregators=settings.aggregators)


def _need_redis(settings: Settings, command: str) -> None:
    if settings.redis is None:
        raise StartupError(f"pushsvc {command} shares a Redis with the other processes: name it with --redis URL")


def _supervise(settings: Settings, **roles: Any) -> None:
    from pushsvc.supervisor import Supervisor

    Supervisor(settings, say=click.echo, **roles).run()


# The children of the supervisor


def _child_settings() -> Settings:
    from pushsvc.supervisor import SETTINGS_VARIABLE

    logging.basicConfig(level=logging.INFO, format=f"pushsvc[{os.getpid()}]: %(message)s")
    return Settings.decode(os.environ.pop(SETTINGS_VARIABLE))


@program.command("_web", hidden=True)
@click.option("--fd", type=int, required=True)
def web_worker(fd: int) -> None:
    """Serve on an inherited listening socket."""
    from pushsvc.broker import Broker
    from pushsvc.server import serve
    from pushsvc.web import Security, create_app

    settings = _child_settings()
    assert settings.redis is not None
    security = Security(settings.allow_host, settings.allow_origin, settings.insecure)
    app = create_app(Broker(settings.redis, settings.prefix), settings.topics, security, settings.limits)
    os.set_inheritable(fd, False)
    serve(app, socket.socket(fileno=fd), settings.drain)


@program.command("_aggregator", hidden=True)
def aggregator_worker() -> None:
    """Count."""
    import gevent

    from pushsvc.broker import Broker
    from pushsvc.worker import AggregatorWorker

    settings = _child_settings()
    assert settings.redis is not None
    worker = AggregatorWorker(Broker(settings.redis, settings.prefix), settings.topics)
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, worker.stop)
    worker.run()
