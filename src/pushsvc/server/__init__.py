"""The HTTP server of one worker process: gevent's pywsgi over an inherited listening socket."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from time import monotonic

import gevent
from flask import Flask
from gevent import monkey
from gevent.event import Event
from gevent.pool import Pool
from gevent.pywsgi import WSGIHandler, WSGIServer

from pushsvc.web import hub_of

log = logging.getLogger(__name__)

WRITE_DEADLINE = 60.0
"""Seconds that a send, or the wait for a next request, may take: a peer that is gone is let go of after that."""


_plain_socket = monkey.get_original("socket", "socket")


def _nothing() -> None:
    """Nobody counts connections here."""


class _Handler(WSGIHandler):
    server: _Server

    def handle(self) -> None:
        self.socket.settimeout(WRITE_DEADLINE)
        super().handle()

    def read_requestline(self) -> str:
        if self.server.draining:
            _end_input(self.socket)
        self.server.waiting.add(self.socket)
        try:
            line: str = super().read_requestline()
        finally:
            self.server.waiting.discard(self.socket)
        return line

    # Handing a stream's socket to the hub: after the head, and for good.

    def get_environ(self) -> dict[str, object]:
        environ: dict[str, object] = super().get_environ()
        self._take_over: Callable[..., None] | None = None
        environ["pushsvc.handoff"] = lambda take_over: setattr(self, "_take_over", take_over)
        return environ

    def process_result(self) -> None:
        if self._take_over is None:
            super().process_result()
            return
        self.result = iter(())
        self.request_version = "HTTP/1.0"  # no chunks
        self.write(b"")
        family, kind, protocol = self.socket.family, self.socket.type, self.socket.proto
        sock = _plain_socket(family, kind, protocol, self.socket.detach())
        sock.setblocking(False)
        self.close_connection = True
        self._take_over(sock, _nothing)

    def log_request(self) -> None:
        """Write nothing per request: an event server's access log would outgrow its data."""

    def log_error(self, msg: str, *args: object) -> None:
        log.debug(msg, *args)


class _Server(WSGIServer):
    """Knows which connections wait for a request, so that an idle browser does not hold up the end."""

    draining = False

    def __init__(self, listener: socket.socket, app: Flask) -> None:
        # Only a server with a pool waits, when it stops, for what is under way.
        super().__init__(listener, app, spawn=Pool(), handler_class=_Handler, log=None, error_log=log)
        self.waiting: set[socket.socket] = set()

    def drain(self, timeout: float) -> None:
        """End idle connections and wait for the busy ones, at most ``timeout`` seconds."""
        self.draining = True
        for connection in list(self.waiting):
            _end_input(connection)
        self.stop(timeout)


def _end_input(connection: socket.socket) -> None:
    """Let a reader have what has come, and then the end."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RD)


def serve(app: Flask, listener: socket.socket, drain: float) -> None:
    """Serve until SIGTERM or SIGINT; then end every stream with a retry, and be done within ``drain`` seconds."""
    hub = hub_of(app)
    hub.start()
    server = _Server(listener, app)
    stopping = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, stopping.set)
    server.start()
    stopping.wait()
    server.close()  # accept no more; what is under way goes on
    until = monotonic() + drain
    hub.drain(0.8 * drain)
    server.drain(max(0.1, until - monotonic()))
    hub.close()
