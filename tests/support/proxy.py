"""A real TCP proxy that breaks connections where a test wants them broken."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress


class Last(bytes):
    """What still goes on of a connection that is cut behind it."""


class _Link:
    """A client's connection and the one made for it. ``listens`` once the client has subscribed to something; what is
    ``deaf`` stays so, as a stream of bytes from which some are missing is nothing that a network makes."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        self.listens = self.deaf = False

    def end(self) -> None:
        for end in (self.client, self.server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Proxy:
    """Stands between a client and a server on a unix socket or a TCP address, and does what it is told.

    ``upward(data)`` and ``downward(data)`` return what goes on, Last to cut the connection behind it, or None to cut it
    at once. ``hold`` keeps what comes from the client until ``go`` is set. While ``deaf``, connections that have
    subscribed to something in Redis stay open, but nothing comes back on them any more.
    """

    def __init__(self, target: str | tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.url = f"redis://127.0.0.1:{self.port}"
        self.upward: Callable[[bytes], bytes | None] = lambda data: data
        self.downward: Callable[[bytes], bytes | None] = lambda data: data
        self.deaf = False
        self.go = threading.Event()
        self.go.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def move(self, target: str) -> None:
        """Let connections that come from now on lead to another server."""
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
            server = socket.socket(socket.AF_UNIX if isinstance(self._target, str) else socket.AF_INET)
            try:
                server.connect(self._target)
            except OSError:  # there is no server now: its client is to find out
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
                    link.listens |= b"SUBSCRIBE\r\n" in data
                    self.go.wait()
                else:
                    link.deaf |= self.deaf and link.listens
                    if link.deaf:
                        continue
                passed = (self.upward if up else self.downward)(data)
                if passed is None:
                    break
                sink.sendall(passed)
                if isinstance(passed, Last):
                    break
        link.end()  # the sockets close with the last of the two threads
