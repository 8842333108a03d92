"""One connection: requests in, answers out, in their order, until it ends or becomes a stream."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from typing import Any

from gevent import get_hub

from pushsvc.errors import PushError
from pushsvc.server.body import Body
from pushsvc.server.fastpath.pending_read import Closing, Offer, Taken
from pushsvc.server.fastpath.post_batcher import Posts
from pushsvc.server.fastpath.publish import Lane
from pushsvc.server.fastpath.stream_cache import Grant, Granted
from pushsvc.server.protocol import BadRequest, Bounds, Request, find_head, parse_head
from pushsvc.server.transport import Disconnected, Draining, Overdue, Transport
from pushsvc.server.wsgi import HANDOFF, App, Reply, TakeOver, answer, dated, environ_of, internal_error, problem
from pushsvc.web import metrics
from pushsvc.web.capacity import REFUSED

log = logging.getLogger(__name__)

_AT_ONCE = 16
"""Requests of one connection that are answered before the others get a turn."""

_LINGER_BYTES = 64_000_000


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds. A whole head has ``head``, from its first byte on, and so has the first byte of a new connection."""

    handshake: float = 10.0
    head: float = 10.0
    idle: float = 75.0
    body: float = 30.0
    rate: int = 4_096
    """Bytes of a body that win it one more second."""

    linger: float = 5.0
    """For a peer that is still sending what nobody reads any more: closing at once could take the answer from it."""


@dataclass(slots=True)
class Site:
    """What all connections of a worker share."""

    app: App
    environ: dict[str, Any]
    lane: Lane | None = None
    tls: ssl.SSLContext | None = None
    granted: Granted | None = None
    bounds: Bounds = field(default_factory=Bounds)
    deadlines: Deadlines = field(default_factory=Deadlines)
    draining: bool = False
    posts: Posts | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.lane is not None and self.tls is None:
            self.posts = Posts(self.lane, lambda: self.draining)


class Connection:
    """``refused`` is why the connection is beyond a cap; ``ended`` is called once when its socket is closed."""

    def __init__(
        self, site: Site, sock: socket.socket, address: tuple[str, int], refused: str | None, ended: Callable[[], None]
    ) -> None:
        self._site = site
        self._address = address
        self._refused = refused
        self._ended = ended
        self._buffer = bytearray()
        self._answered = 0
        self._unread = False
        self._before: tuple[bytes, Request, bool] | None = None
        self._repeats = False  # the head was that of the request before
        self._offers = False  # the request before might have been answered together with others
        self.transport = Transport(sock)
        self.idle = True

    def run(self) -> None:
        """Serve to the end."""
        handed_over = False
        try:
            if self._site.tls is not None:
                self.transport.within(self._site.deadlines.handshake)
                self.transport.secure(self._site.tls)
            handed_over = self._serve()
        except Disconnected:
            pass
        except (Overdue, Draining):
            self._say_goodbye()
        except Closing as end:
            self._say_goodbye()
            if end.more:
                with suppress(Disconnected, Overdue):
                    self._linger()
        except Exception:
            log.exception("a connection of %s ended", self._address[0])
        finally:
            if not handed_over:
                self._close()

    def drain(self) -> None:
        """End what has no request under way. To be called in gevent's hub."""
        if self.idle:
            self.transport.interrupt(Draining)

    def _close(self) -> None:
        self.transport.release().close()
        self._ended()

    def _say_goodbye(self) -> None:
        self.idle = True
        self.transport.within(self._site.deadlines.linger)
        with suppress(Disconnected, Overdue, Draining):
            self.transport.end_sending()

    def _serve(self) -> bool:
        """Return whether the socket was handed over."""
        while True:
            try:
                request = self._next()
                if request is None:
                    self._say_goodbye()
                    return False
                take_over = self._answer(request)
            except BadRequest as error:
                self._refuse(error.status, error.detail)
                return False
            if take_over is not None:
                return self._hand_over(take_over)
            if not request.keep_alive:
                self._say_goodbye()
                if self._unread or self._buffer:
                    self._linger()
                return False

    # Requests

    def _next(self) -> Request | None:
        """Return the next request, None where the peer sends no more."""
        bounds, buffer = self._site.bounds, self._buffer
        self.idle = not buffer
        self._await_head(first=not self._answered)
        looked = 0
        while not (end := find_head(buffer, looked, bounds)):
            looked = len(buffer)
            data = self._receive()
            if data is None:
                self.idle = True
                self._await_head(first=False)
                continue
            if not data:
                return None
            buffer += data
            if self.idle:
                self.idle = False
                self.transport.within(self._site.deadlines.head)
        self.transport.no_deadline()
        request = self._parsed(bytes(buffer[:end]))
        del buffer[:end]
        return request

    def _parsed(self, head: bytes) -> Request:
        """Return the request of a head; the one before, if its head was the same, as a producer's mostly is."""
        before = self._before
        self._repeats = before is not None and before[0] == head
        if before is not None and self._repeats:
            _, request, keep_alive = before
            request.keep_alive = keep_alive
            return request
        request = parse_head(head, self._site.bounds)
        request.keep_alive = request.keep_alive and self._refused is None
        self._before = (head, request, request.keep_alive)
        return request

    def _await_head(self, first: bool) -> None:
        deadlines = self._site.deadlines
        self._answered += 1
        if self._buffer and self._answered % _AT_ONCE == 0:
            self.transport.give_way()
        self.transport.within(deadlines.head if first or self._buffer else deadlines.idle)
        if self._site.draining and self.idle:
            self.transport.interrupt(Draining)

    def _receive(self) -> bytes | None:
        """Return what comes, nothing at the end; None where a request was answered meanwhile, so that all is as if it
        had not come."""
        try:
            if self._offers and self.idle:
                return self._receive_unless_taken()
            return self.transport.receive(patient=self.idle and self._answered > 1)
        except Overdue:
            if self.idle:
                raise
            raise BadRequest(408, "the head of the request did not come in time") from None

    # Requests that are answered together with those of others

    def _receive_unless_taken(self) -> bytes | None:
        offer = Offer(self.transport, self._take, self._await_next)
        data = offer.wait()
        self._offers = not offer.given_back
        # What came now has its own time, whatever was answered meanwhile; unless it had begun before, and that runs.
        self.idle = self.idle or self.transport.deadline == inf
        return data

    def _take(self, data: bytes, offer: Offer) -> Taken:
        """Let requests be answered with others, if they can be. Called in gevent's hub."""
        posts = self._site.posts
        taken = Taken(0, goes_on=False) if posts is None else posts.take(data, offer)
        if taken.size:
            self.idle = False
            self.transport.no_deadline()
        return taken

    def _await_next(self, begun: bool) -> None:
        """Let the next request, which has ``begun`` or not, have its time."""
        deadlines, self.idle = self._site.deadlines, not begun
        self.transport.within(deadlines.head if begun else deadlines.idle)
        if self._site.draining:
            get_hub().loop.run_callback(self.drain)

    # Answers

    def _answer(self, request: Request) -> TakeOver | None:
        """Send the answer; return who takes the connection over, if somebody does."""
        lane, granted = self._site.lane, self._site.granted
        try:
            if lane is not None and self._refused is None and (topic := lane.topic_of(request)) is not None:
                self._publish(lane, topic, request)
                return None
            if granted is not None and self._refused is None and (grant := granted.find(request)) is not None:
                take_over = self._grant(grant, request)
                if take_over is not None:
                    return take_over
            return self._run_app(request, self._body_of(request))
        except Overdue:
            raise BadRequest(408, "the body of the request did not come in time") from None

    def _grant(self, grant: Grant, request: Request) -> TakeOver | None:
        """Begin the stream that an equal request was granted; None where the app shall say why not now."""
        try:
            stream = grant.again(request.headers.get("last-event-id") or None)
            stream.open()
        except PushError:
            return None
        self._unread = False
        self.transport.send(dated(grant.head), more=True)
        return stream.take_over

    def _body_of(self, request: Request) -> Body:
        deadlines = self._site.deadlines
        return Body(self.transport, self._buffer, request, deadlines.body, deadlines.rate)

    def _publish(self, lane: Lane, topic: str, request: Request) -> None:
        data = self._whole_body(request)
        try:
            status, headers, text = lane.publish(topic, request, data)
        except Exception:
            log.exception("POST %s", request.path)
            request.keep_alive = False
            self.transport.send(internal_error())
            return
        posts = self._site.posts
        if posts is not None and status == 202 and self._repeats and self._before is not None:
            self._offers = posts.remember(self._before[0], topic, request)
        keep = request.keep_alive = request.keep_alive and not self._site.draining
        self.transport.send(answer(status, headers, text, keep=keep, version=request.version))

    def _whole_body(self, request: Request) -> bytes:
        length = request.length or 0
        if len(self._buffer) < length:
            return self._body_of(request).read_whole()
        data = bytes(self._buffer[:length])  # it came with the head, as single events do
        del self._buffer[:length]
        return data

    def _run_app(self, request: Request, body: Body) -> TakeOver | None:
        reply = Reply(self.transport, request, body, lambda: request.keep_alive and not self._site.draining)
        environ = environ_of(self._site.environ, request, self._address, body.stream(request.length))
        if self._refused is not None:
            environ[REFUSED] = self._refused
        elif request.method != "HEAD":
            environ[HANDOFF] = reply.handoff
        try:
            reply.run(self._site.app, environ)
        except (BadRequest, Overdue, Disconnected):
            if reply.started:
                raise Disconnected from None  # half an answer is no place for another one
            raise
        except Exception:
            if body.fault is not None and not reply.started:
                raise body.fault from None
            log.exception("%s %s", request.method, request.path)
            self._fail(request, reply)
        finally:
            self._unread = not body.done
        request.keep_alive = reply.keep
        if self._site.granted is not None and reply.take_over is not None and reply.again is not None:
            self._site.granted.remember(request, reply.head_of_stream, reply.again)
        return reply.take_over

    def _fail(self, request: Request, reply: Reply) -> None:
        """Answer 500 where the app raised before it said anything."""
        if reply.started:
            raise Disconnected
        self.transport.send(internal_error(bodiless=request.method == "HEAD"))
        reply.keep = False
        reply.take_over = None

    def _refuse(self, status: int, detail: str) -> None:
        metrics.BAD_REQUESTS.inc()
        self.transport.send(problem(status, detail))
        self._say_goodbye()
        self._linger()

    def _linger(self) -> None:
        """Read and drop what the peer still sends: a socket closed before takes back what was sent to it."""
        self.transport.within(self._site.deadlines.linger)
        read = len(self._buffer)
        while read < _LINGER_BYTES and (data := self.transport.receive()):
            read += len(data)
            self.transport.give_way()

    def _hand_over(self, take_over: TakeOver) -> bool:
        sock = self.transport.release()
        try:
            take_over(sock, self._ended)
        except Exception:
            log.exception("a stream of %s could not be taken over", self._address[0])
            sock.close()
            self._ended()
        return True
