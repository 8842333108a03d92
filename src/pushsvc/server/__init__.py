"""The HTTP server of one worker process: gevent's pywsgi over an inherited listening socket."""

from __future__ import annotations

import logging
import signal
import socket

import gevent
from flask import Flask
from gevent.event import Event
from gevent.pywsgi import WSGIHandler, WSGIServer

from pushsvc.web import hub_of

log = logging.getLogger(__name__)

WRITE_DEADLINE = 60.0
"""Seconds that a send, or the wait for a next request, may take: a peer that is gone is let go of after that."""


class _Handler(WSGIHandler):
    def handle(self) -> None:
        self.socket.settimeout(WRITE_DEADLINE)
        super().handle()

    def log_request(self) -> None:
        """Write nothing per request: an event server's access log would outgrow its data."""

    def log_error(self, msg: str, *args: object) -> None:
        log.debug(msg, *args)


def serve(app: Flask, listener: socket.socket, drain: float) -> None:
    """Serve until SIGTERM or SIGINT; then end every stream with a retry, and be done within ``drain`` seconds."""
    hub = hub_of(app)
    hub.start()
    server = WSGIServer(listener, app, handler_class=_Handler, log=None, error_log=log)
    stopping = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, stopping.set)
    server.start()
    stopping.wait()
    server.close()  # accept no more; what is under way goes on
    hub.drain()
    server.stop(timeout=drain)
    hub.close()
