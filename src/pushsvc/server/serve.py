"""Serves an app from one worker process, over an inherited listening socket."""

import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from time import monotonic

import gevent
from flask import Flask
from gevent.event import Event

from pushsvc.server.accept import Acceptor
from pushsvc.server.caps import Caps
from pushsvc.server.client_address import TrustedProxies
from pushsvc.server.collector import Collector
from pushsvc.server.context import Deadlines, FastPaths, ServerContext
from pushsvc.server.gateway.gateway import Behind, Gateway
from pushsvc.server.gateway.granted_publish import GrantedPublish
from pushsvc.server.heap import return_large_blocks, trimmer
from pushsvc.server.transport import Pace
from pushsvc.server.wsgi import base_environ
from pushsvc.web.app import context_of

_INNER_PROXIES = ("127.0.0.1",)
_INNER_CONNECTIONS = 10_000

_TRIM = 10.0  # seconds between two returns of free memory
_TAKE_BACK = 3_600.0  # seconds between two collections of all objects


def serve(
    app: Flask,
    listener: socket.socket,
    drain: float,
    *,
    caps: Caps | None = None,
    tls: ssl.SSLContext | None = None,
    proxies: TrustedProxies | None = None,
    access_log: bool = False,
    behind: Behind | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT. Then end every stream with a time to reconnect, within ``drain`` seconds.

    With ``behind``, an application has the port, but for what it lets the app serve; the app has the inner listener.
    """
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
    if behind is None:
        acceptors = [Acceptor(listener, shared, caps or Caps())]
    else:
        publish = None if fast_paths is None else GrantedPublish(fast_paths, context.accounts)
        gateway = Gateway(app, behind, publish)
        inner = replace(
            shared, environ=base_environ(behind.inner.getsockname(), "http"), tls=None, access_log=False,
            proxies=TrustedProxies(_INNER_PROXIES),
        )  # fmt: skip
        acceptors = [
            Acceptor(listener, replace(shared, app=gateway, fast_paths=None), caps or Caps()),
            Acceptor(behind.inner, inner, Caps(_INNER_CONNECTIONS), unmeasured=True),
        ]
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, stopping.set)
    return_large_blocks()
    collector = Collector()
    collector.start()
    tidying = [gevent.spawn(_every, _TAKE_BACK, collector.take_back), gevent.spawn(_every, _TRIM, trimmer())]
    for acceptor in acceptors:
        acceptor.start()
    stopping.wait()
    until = monotonic() + drain
    for acceptor in acceptors:
        acceptor.stop()
    ends = [acceptor.drain() for acceptor in acceptors]
    hub.drain(0.8 * drain)
    for ended in ends:
        ended.wait(max(0.1, until - monotonic()))
    for acceptor in acceptors:
        acceptor.close()
    gevent.killall(tidying)
    hub.close()


def _every(seconds: float, work: Callable[[], None]) -> None:
    while True:
        gevent.sleep(seconds)
        work()


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
