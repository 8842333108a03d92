"""Answers one request: by a fast path if it is admitted to one, else by the WSGI application."""

from __future__ import annotations

import logging

from pushsvc.errors import PushError
from pushsvc.server.body import RequestBody
from pushsvc.server.context import ServerContext
from pushsvc.server.environ import environ_of
from pushsvc.server.fastpath.admission import StreamKey
from pushsvc.server.fastpath.fast_paths import FastPaths
from pushsvc.server.fastpath.stream_cache import CachedStream
from pushsvc.server.request import BadRequest, Request
from pushsvc.server.request_reader import RequestReader
from pushsvc.server.response import closing, complete_head, encode
from pushsvc.server.transport import DeadlineExceeded, Disconnected, Transport
from pushsvc.server.wsgi import WsgiResponse
from pushsvc.web.handoff import HANDOFF, REFUSAL, TakeOver
from pushsvc.web.problem import internal_error

log = logging.getLogger(__name__)


class RequestHandler:
    """Answers the requests of one connection. ``refusal`` is why the connection is beyond a limit.

    ``unread`` is true if the app left a part of the last request's body unread.
    """

    def __init__(
        self,
        transport: Transport,
        reader: RequestReader,
        context: ServerContext,
        address: tuple[str, int],
        refusal: str | None,
    ) -> None:
        self._transport = transport
        self._reader = reader
        self._context = context
        self._fast_paths = context.fast_paths if refusal is None else None
        self._address = address
        self._refusal = refusal
        self.unread = False

    def handle(self, request: Request) -> TakeOver | None:
        """Send the answer; return the callback that takes the socket, if the answer is a stream."""
        paths = self._fast_paths
        try:
            if paths is not None and (topic := paths.admission.publish_topic(request)) is not None:
                self._publish(paths, topic, request)
                return None
            if paths is not None and (key := paths.admission.stream_key(request)) is not None:
                return self._handle_stream(paths, key, request)
            return self._respond(request).take_over
        except DeadlineExceeded:
            raise BadRequest(408, "the body of the request did not arrive in time") from None

    def _handle_stream(self, paths: FastPaths, key: StreamKey, request: Request) -> TakeOver | None:
        """Answer from the stream cache; else let the app answer and remember its stream."""
        cached = paths.streams.find(key)
        take_over = None if cached is None else self._open_cached(cached, request)
        if take_over is not None:
            return take_over
        response = self._respond(request)
        if response.take_over is not None and response.factory is not None:
            paths.streams.remember(key, response.stream_head, response.factory)
        return response.take_over

    def _publish(self, paths: FastPaths, topic: str, request: Request) -> None:
        data = self._whole_body(request)
        try:
            response = paths.publisher.publish(topic, request, data)
        except Exception:
            log.exception("POST %s", request.path)
            request.keep_alive = False
            self._transport.send(closing(internal_error()))
            return
        if paths.batcher is not None and response.status == 202:
            self._reader.batch_repetitions(paths.batcher, request)
        keep_alive = request.keep_alive = request.keep_alive and not self._context.draining.is_set()
        self._transport.send(encode(response, keep_alive=keep_alive, version=request.version))

    def _whole_body(self, request: Request) -> bytes:
        length, buffer = request.length or 0, self._reader.buffer
        if len(buffer) < length:
            return self._body_of(request).read_whole()
        data = bytes(buffer[:length])  # it arrived with the head, as single events do
        del buffer[:length]
        return data

    def _open_cached(self, cached: CachedStream, request: Request) -> TakeOver | None:
        """Send the cached head of a stream; None if the stream cannot open now, which the app must explain."""
        try:
            stream = cached.factory(request.headers.get("last-event-id") or None)
            stream.open()
        except PushError:
            return None
        self.unread = False
        self._transport.send(complete_head(cached.head), more=True)
        return stream.take_over

    # Flask

    def _respond(self, request: Request) -> WsgiResponse:
        """Let the app answer; return its response."""
        context, body = self._context, self._body_of(request)
        response = WsgiResponse(
            self._transport, request, body, lambda: request.keep_alive and not context.draining.is_set()
        )
        environ = environ_of(context.environ, request, self._address, body.stream(request.length))
        if self._refusal is not None:
            environ[REFUSAL] = self._refusal
        elif request.method != "HEAD":
            environ[HANDOFF] = response.handoff
        try:
            response.run(context.app, environ)
        except (BadRequest, DeadlineExceeded, Disconnected):
            if response.started:
                raise Disconnected from None  # an error response cannot follow half a response
            raise
        except Exception:
            if body.fault is not None and not response.started:
                raise body.fault from None
            log.exception("%s %s", request.method, request.path)
            self._fail(request, response)
        finally:
            self.unread = not body.done
        request.keep_alive = response.keep_alive
        return response

    def _body_of(self, request: Request) -> RequestBody:
        deadlines = self._context.deadlines
        return RequestBody(self._transport, self._reader.buffer, request, deadlines.body, deadlines.rate)

    def _fail(self, request: Request, response: WsgiResponse) -> None:
        """Answer 500 if the app raised before it began to answer."""
        if response.started:
            raise Disconnected
        self._transport.send(closing(internal_error(), bodiless=request.method == "HEAD"))
        response.keep_alive = False
        response.take_over = None
