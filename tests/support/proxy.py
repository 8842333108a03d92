"""A TCP proxy that breaks connections at chosen points."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress


class Last(bytes):
    """Data after which the proxy cuts the connection."""


class _Link:
    """A client's connection and the connection to the server. ``subscribed`` is true once the client has subscribed. A
    ``muted`` link stays muted: a network never drops bytes from the middle of a stream."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        self.subscribed = self.muted = False

    def end(self) -> None:
        for end in (self.client, self.server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Proxy:
    """Forwards between clients and a server on a Unix socket or a TCP address.

    ``upward(data)`` and ``downward(data)`` return the data to forward, Last to cut the connection after it, or None to
    cut it at once. While ``go`` is cleared, data of clients waits, and its connections are in ``held``. With
    ``mute_subscribers``, connections that have subscribed to a channel of Redis stay open, but receive nothing.
    ``accepted`` counts the connections of clients, ``ended`` has those that were cut or closed.
    """

    def __init__(self, target: str | tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.url = f"redis://127.0.0.1:{self.port}"
        self.upward: Callable[[bytes], bytes | None] = lambda data: data
        self.downward: Callable[[bytes], bytes | None] = lambda data: data
        self.mute_subscribers = False
        self.held: set[object] = set()
        self.accepted = 0
        self.ended: set[_Link] = set()
        self.go = threading.Event()
        self.go.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def move(self, target: str) -> None:
        """Connect new clients to another server."""
        self._target = target

    def close(self) -> None:
        self.go.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # closing alone would not end a wait for the next client
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            server = socket.socket(socket.AF_UNIX if isinstance(self._target, str) else socket.AF_INET)
            try:
                server.connect(self._target)
            except OSError:  # no server: the client sees a closed connection
                client.close()
                server.close()
                continue
            link = _Link(client, server)
            for source, sink, up in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._copy, args=(link, source, sink, up), daemon=True).start()

    def _copy(self, link: _Link, source: socket.socket, sink: socket.socket, up: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if up:
                    link.subscribed |= b"SUBSCRIBE\r\n" in data
                    self.held.add(link)
                    self.go.wait()
                    self.held.discard(link)
                else:
                    link.muted |= self.mute_subscribers and link.subscribed
                    if link.muted:
                        continue
                passed = (self.upward if up else self.downward)(data)
                if passed is None:
                    break
                sink.sendall(passed)
                if isinstance(passed, Last):
                    break
        link.end()  # the sockets close with the last of the two threads
        self.ended.add(link)
