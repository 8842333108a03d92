"""A real TCP proxy that breaks connections where a test wants them broken."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress


class Proxy:
    """Stands between a client and a server on a unix socket, and does with each direction what it is told.

    ``upward(data)`` and ``downward(data)`` return what goes on, or None to cut the connection. ``hold`` keeps what
    comes from the client until ``go`` is set.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}"
        self.upward: Callable[[bytes], bytes | None] = lambda data: data
        self.downward: Callable[[bytes], bytes | None] = lambda data: data
        self.go = threading.Event()
        self.go.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def move(self, target: str) -> None:
        """Let connections that come from now on lead to another server."""
        self._target = target

    def close(self) -> None:
        self.go.set()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(self._target)
            except OSError:
                client.close()
                continue
            for source, sink, up in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._copy, args=(source, sink, up), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket, up: bool) -> None:
        try:
            while data := source.recv(1 << 16):
                if up:
                    self.go.wait()
                passed = (self.upward if up else self.downward)(data)
                if passed is None:
                    break
                sink.sendall(passed)
        except OSError:
            pass
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
