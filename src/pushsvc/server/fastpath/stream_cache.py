"""Remembers stream requests that the app has accepted, so that equal requests skip Flask.

Thousands of browsers that reconnect send equal requests except for ``Last-Event-ID``, or except for the topic. Flask
answers the first one; the others get the same head, and a stream from their own position. Those that come while Flask
answers the first one wait for it: after a restart all of them come at once. The streams of other topics are made by the
functions that the views of Flask call, so whatever a view checks of a topic is checked here, too.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from gevent.event import Event
from werkzeug.datastructures import MultiDict

from pushsvc.auth.grants import Grants
from pushsvc.hub.streams import Stream
from pushsvc.server.fastpath.admission import StreamRequest
from pushsvc.web import events, latest, stats
from pushsvc.web.context import Context
from pushsvc.web.responses import StreamFactory

TopicStreams = Mapping[str, Callable[[Grants, str, MultiDict[str, str], str | None], Stream]]
"""For each resource of a topic the function that makes its stream from grants, topic, query and position. It may raise
PushError."""


def topic_streams(context: Context) -> TopicStreams:
    return {name: partial(view.open_stream, context) for name, view in _VIEWS.items()}


_PATIENCE = 1.0  # seconds to wait for the answer to an equal request

_VIEWS = {"events": events, "latest": latest, "stats": stats}


class CachedStream(NamedTuple):
    """The head that the app answered, without its date, and the maker of further streams."""

    head: str
    factory: StreamFactory


class StreamCache:
    """The newest accepted stream requests of one worker."""

    def __init__(self, of_topics: TopicStreams | None = None, max_entries: int = 512) -> None:
        self._entries: dict[tuple[Hashable, ...], CachedStream] = {}
        self._answering: dict[tuple[Hashable, ...], Event] = {}
        self._of_topics = of_topics or {}
        self._max_entries = max_entries

    def find(self, request: StreamRequest) -> CachedStream | None:
        """Return what is remembered of equal requests; wait if the first of them is being answered."""
        if (first := self._answering.get(request.key)) is not None:
            first.wait(_PATIENCE)
        found, of_topic = self._entries.get(request.key), request.of_topic
        if found is None or of_topic is None:
            return found
        return CachedStream(
            found.head, partial(self._of_topics[of_topic.resource], request.grants, of_topic.topic, of_topic.args)
        )

    @contextmanager
    def answering(self, request: StreamRequest) -> Iterator[None]:
        """Let equal requests wait until this one was answered, and maybe remembered."""
        if not request.accepts_stream or request.key in self._answering:
            yield
            return
        answered = self._answering[request.key] = Event()
        try:
            yield
        finally:
            del self._answering[request.key]
            answered.set()

    def remember(self, request: StreamRequest, head: str, factory: StreamFactory) -> None:
        if len(self._entries) >= self._max_entries:
            del self._entries[next(iter(self._entries))]
        self._entries[request.key] = CachedStream(head, factory)
