"""A subscriber of a hub over a real socket, without a server."""

import contextlib
import os
import socket
import ssl
from typing import ClassVar

from pushsvc.hub.delivery.connection import Connection
from support.chunked import ChunkDecoder


class Peer:
    """A subscriber: its end of a socket pair. ``closed`` counts how often the connection at the other end was closed.

    ``got`` are the bytes that it was sent, without the frames of their chunks; ``taken`` is their number with them.
    ``complete`` is true after the last chunk. With a ``hub`` it is counted there and gets heartbeats.
    """

    opened: ClassVar[list[socket.socket]] = []

    def __init__(self, channel, buffer=None, hub=None, *, chunked=True):
        ours, self.theirs = socket.socketpair()
        if buffer:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        for end in (ours, self.theirs):
            end.setblocking(False)
        Peer.opened.append(self.theirs)
        self.chunked, self.closed, self.got, self.taken = chunked, 0, b"", 0
        self._chunks = ChunkDecoder() if chunked else None
        self.connection = Connection(ours.detach(), channel, self._on_close, chunked=chunked)
        if hub is None:
            channel.join(self.connection)
        else:
            hub.enter(channel, self.connection)
        self.connection.listen()
        self.connection.at = channel.backlog.end

    def _on_close(self):
        self.closed += 1

    def reset(self):
        """Break the connection below the hub."""
        with socket.socket(fileno=os.dup(self.connection.fd)) as ours:
            ours.shutdown(socket.SHUT_RDWR)

    def read(self, at_most=65_536):
        with contextlib.suppress(BlockingIOError):
            data = self.theirs.recv(at_most)
            self.taken += len(data)
            self.got += data if self._chunks is None else self._chunks.feed(data)
        return self.got

    @property
    def complete(self):
        return self._chunks is not None and self._chunks.complete


def tls_pair(ours, theirs):
    """Return the two ends of a TLS connection over a socket pair. Anonymous keys need no certificate."""
    ends = []
    for sock, kind in ((ours, ssl.PROTOCOL_TLS_SERVER), (theirs, ssl.PROTOCOL_TLS_CLIENT)):
        context = ssl.SSLContext(kind)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("AECDH-AES256-SHA:@SECLEVEL=0")
        server = kind is ssl.PROTOCOL_TLS_SERVER
        ends.append(context.wrap_socket(sock, server_side=server, do_handshake_on_connect=False))
    undone = list(ends)
    while undone:
        for end in list(undone):
            with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
                end.do_handshake()
                undone.remove(end)
    return ends
