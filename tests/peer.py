"""A subscriber of a hub over a real socket, without a server."""

import contextlib
import os
import socket
import time
from typing import ClassVar

import gevent

from pushsvc.hub.connection import Connection

SECONDS = 20.0


class Peer:
    """A subscriber: its end of a socket, whose other end is the hub's, and how often the hub closed it."""

    opened: ClassVar[list[socket.socket]] = []

    def __init__(self, group, buffer=None):
        ours, self.theirs = socket.socketpair()
        if buffer:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        for end in (ours, self.theirs):
            end.setblocking(False)
        Peer.opened.append(self.theirs)
        self.closed, self.got = 0, b""
        self.connection = Connection(ours.detach(), group, self._on_close)
        group.hub.enter(self.connection)
        self.connection.listen()
        self.connection.at = group.tape.end

    def _on_close(self):
        self.closed += 1

    def reset(self):
        """Break the connection below the hub."""
        with socket.socket(fileno=os.dup(self.connection.fd)) as ours:
            ours.shutdown(socket.SHUT_RDWR)

    def read(self, at_most=65_536):
        with contextlib.suppress(BlockingIOError):
            self.got += self.theirs.recv(at_most)
        return self.got


def turn_until(look):
    """Let the loop run until something is so."""
    until = time.monotonic() + SECONDS
    while not look():
        assert time.monotonic() < until
        gevent.sleep(0.001)
