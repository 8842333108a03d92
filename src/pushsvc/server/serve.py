"""The HTTP server of one worker process: gevent and llhttp, over an inherited listening socket."""

from __future__ import annotations

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
from pushsvc.server.connection import Deadlines, Site
from pushsvc.server.fastpath.publish import Lane
from pushsvc.server.fastpath.stream_cache import Granted
from pushsvc.server.tls import tls_context
from pushsvc.server.wsgi import base_environ
from pushsvc.web.app import hub_of

__all__ = ["Deadlines", "serve", "serving", "tls_context"]


def serve(
    app: Flask,
    listener: socket.socket,
    drain: float,
    *,
    caps: Caps | None = None,
    tls: ssl.SSLContext | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; then end every stream with a retry, and be done within ``drain`` seconds."""
    hub = hub_of(app)
    hub.start()
    environ = base_environ(listener.getsockname(), "http" if tls is None else "https")
    lane = Lane.of(app)
    site = Site(app, environ, lane, tls, Granted() if lane is not None else None)
    acceptor = Acceptor(listener, site, caps or Caps())
    stopping = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, stopping.set)
    acceptor.start()
    stopping.wait()
    until = monotonic() + drain
    acceptor.stop()
    ended = acceptor.drain()
    hub.drain(0.8 * drain)
    ended.wait(max(0.1, until - monotonic()))
    acceptor.close()
    hub.close()


@contextmanager
def serving(app: Flask, listener: socket.socket, caps: Caps) -> Iterator[None]:
    """Serve an app without streams beside whatever the context does."""
    acceptor = Acceptor(listener, Site(app, base_environ(listener.getsockname(), "http")), caps)
    acceptor.start()
    try:
        yield
    finally:
        acceptor.stop()
        acceptor.close()
