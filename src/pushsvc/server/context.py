"""What all connections of one worker share."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Any

from gevent.event import Event

from pushsvc.server.fastpath.fast_paths import FastPaths
from pushsvc.server.request import HeadLimits
from pushsvc.server.wsgi import WsgiApp


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds. ``head`` runs from the first byte of a head; a new connection has it for its first byte, too."""

    handshake: float = 10.0
    head: float = 10.0
    idle: float = 75.0
    body: float = 30.0
    rate: int = 4_096
    """Bytes of a body that extend its deadline by one second."""

    linger: float = 5.0
    """For a peer that still sends unread bytes: closing at once could destroy the answer before the peer reads it."""


@dataclass(frozen=True, slots=True)
class ServerContext:
    """The app, its fast paths and the limits. ``draining`` is set when the server begins to end."""

    app: WsgiApp
    environ: dict[str, Any]
    fast_paths: FastPaths | None = None
    tls: ssl.SSLContext | None = None
    head_limits: HeadLimits = field(default_factory=HeadLimits)
    deadlines: Deadlines = field(default_factory=Deadlines)
    draining: Event = field(default_factory=Event)
