"""What all connections of one worker share."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from flask import Flask
from gevent.event import Event

from pushsvc.event import Limits
from pushsvc.server.client_address import TrustedProxies
from pushsvc.server.fastpath.admission import Admission
from pushsvc.server.fastpath.post_batcher import PostBatcher
from pushsvc.server.fastpath.publish import Publisher
from pushsvc.server.fastpath.stream_cache import StreamCache, topic_streams
from pushsvc.server.request import HeadLimits
from pushsvc.server.transport import Pace
from pushsvc.server.turns import TurnBudget
from pushsvc.server.wsgi import WsgiApp
from pushsvc.web.app import context_of
from pushsvc.web.memory.budget import MemoryBudget
from pushsvc.web.rates.accounts import Accounts
from pushsvc.web.rates.streams import StreamCounts


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds. ``head`` runs from the first byte of a head; a new connection has it for its first byte, too."""

    handshake: float = 10.0
    head: float = 10.0
    idle: float = 75.0
    pace: Pace = field(default_factory=Pace)
    """Of bodies and answers."""

    linger: float = 5.0
    """For a peer that still sends unread bytes: closing at once could destroy the answer before the peer reads it."""


class FastPaths(NamedTuple):
    """The admission rule and what answers the admitted requests. Without ``batcher`` each request is read alone."""

    admission: Admission
    publisher: Publisher
    streams: StreamCache
    batcher: PostBatcher | None

    @classmethod
    def of(cls, app: Flask, draining: Event, *, batching: bool) -> FastPaths | None:
        """Return the fast paths of an app; None if something was added to the app."""
        admission = Admission.of(app)
        if admission is None:
            return None
        publisher = Publisher(context_of(app))
        return cls(
            admission,
            publisher,
            StreamCache(topic_streams(context_of(app))),
            PostBatcher(publisher, admission, draining) if batching else None,
        )


@dataclass(frozen=True, slots=True)
class ServerContext:
    """The app, its fast paths and the limits. ``draining`` is set when the server begins to end.

    ``memory`` counts what the process holds for its clients; ``accounts`` and ``streams`` what they do, if it is
    limited. ``common_headers`` returns the headers of every answer to pages of an origin. ``proxies`` may tell the
    addresses of clients. ``turns`` spreads requests that arrive together.
    """

    app: WsgiApp
    environ: dict[str, Any]
    fast_paths: FastPaths | None = None
    tls: ssl.SSLContext | None = None
    head_limits: HeadLimits = field(default_factory=HeadLimits)
    deadlines: Deadlines = field(default_factory=Deadlines)
    memory: MemoryBudget = field(default_factory=lambda: MemoryBudget(Limits().memory, Limits().memory_per_address))
    draining: Event = field(default_factory=Event)
    proxies: TrustedProxies = field(default_factory=TrustedProxies)
    access_log: bool = False
    common_headers: Callable[[str | None], list[tuple[str, str]]] = lambda _origin: []
    accounts: Accounts | None = None
    streams: StreamCounts | None = None
    turns: TurnBudget = field(default_factory=TurnBudget)
