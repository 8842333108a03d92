"""Serves an app from one worker process, over an inherited listening socket."""

import gc
import signal
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

import gevent
from flask import Flask
from gevent.event import Event

from pushsvc.server.accept import Acceptor
from pushsvc.server.caps import Caps
from pushsvc.server.client_address import TrustedProxies
from pushsvc.server.context import Deadlines, FastPaths, ServerContext
from pushsvc.server.transport import Pace
from pushsvc.server.wsgi import base_environ
from pushsvc.web.app import context_of

_NEW_OBJECTS = 5_000  # objects beyond those that were freed, after which the collector looks for cycles


def serve(
    app: Flask,
    listener: socket.socket,
    drain: float,
    *,
    caps: Caps | None = None,
    tls: ssl.SSLContext | None = None,
    proxies: TrustedProxies | None = None,
    access_log: bool = False,
) -> None:
    """Serve until SIGTERM or SIGINT. Then end every stream with a time to reconnect, within ``drain`` seconds."""
    context = context_of(app)
    hub = context.hub
    hub.start()
    environ = base_environ(listener.getsockname(), "http" if tls is None else "https")
    draining, stopping = Event(), Event()
    # The access log has a line for each request, and the batcher reads many as one.
    fast_paths = FastPaths.of(app, draining, batching=tls is None and not access_log)
    deadlines = Deadlines(pace=Pace(rate=context.limits.rate))
    shared = ServerContext(
        app, environ, fast_paths, tls, deadlines=deadlines, memory=context.memory, draining=draining,
        proxies=proxies or TrustedProxies(), access_log=access_log, accounts=context.accounts, streams=context.streams,
        common_headers=context.security.headers,
    )  # fmt: skip
    acceptor = Acceptor(listener, shared, caps or Caps())
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, stopping.set)
    _spare_collections()
    acceptor.start()
    stopping.wait()
    until = monotonic() + drain
    acceptor.stop()
    ended = acceptor.drain()
    hub.drain(0.8 * drain)
    ended.wait(max(0.1, until - monotonic()))
    acceptor.close()
    hub.close()


def _spare_collections() -> None:
    """Let the garbage collector leave out what the program has loaded, and look at new objects less often.

    Streams live long. With the defaults of Python a seventh of the time in which thousands open is spent on looking at
    their objects, and at those of the program, for cycles that are not there.
    """
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, *gc.get_threshold()[1:])


@contextmanager
def serving(app: Flask, listener: socket.socket, caps: Caps) -> Iterator[None]:
    """Serve an app without streams while the context lasts."""
    acceptor = Acceptor(listener, ServerContext(app, base_environ(listener.getsockname(), "http")), caps)
    acceptor.start()
    try:
        yield
    finally:
        acceptor.stop()
        acceptor.close()
