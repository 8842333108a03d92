"""The entries of the WSGI environ that the server adds for the application."""

from __future__ import annotations

import socket
from collections.abc import Callable

from pushsvc.hub.streams import Stream

HANDOFF = "pushsvc.handoff"
"""``environ[HANDOFF](take_over, factory)`` asks for the connection's socket. The view then answers 200 with the headers
of its stream and no body; the server sends the head and gives the socket to ``take_over``. ``factory``, which is
optional, makes the stream of a later equal request. The key is absent if the server cannot hand the socket over."""

REFUSAL = "pushsvc.refused"
"""Why the connection is one too many. The key is absent if the connection is accepted."""

TakeOver = Callable[[socket.socket, Callable[[], None]], None]
"""Takes the socket of a stream, and a callback for the moment when it has closed the socket."""

StreamFactory = Callable[[str | None], Stream]
"""Makes a stream of the same query from another cursor."""
