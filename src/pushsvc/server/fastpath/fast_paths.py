"""The fast paths of one worker."""

from __future__ import annotations

from typing import NamedTuple

from flask import Flask
from gevent.event import Event

from pushsvc.server.fastpath.admission import Admission
from pushsvc.server.fastpath.post_batcher import PostBatcher
from pushsvc.server.fastpath.publish import Publisher
from pushsvc.server.fastpath.stream_cache import StreamCache
from pushsvc.web.app import context_of


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
            admission, publisher, StreamCache(), PostBatcher(publisher, admission, draining) if batching else None
        )
