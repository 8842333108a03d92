"""One connection: answers its requests until it closes or hands its socket to a stream."""

import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import perf_counter

import gevent

from pushsvc.auth.grants import Grants
from pushsvc.errors import MemoryFull, PushError, TooManyRequests
from pushsvc.server.access_log import note_answer
from pushsvc.server.body import FORWARDS, RequestBody
from pushsvc.server.client_address import AmbiguousClient, Client
from pushsvc.server.context import FastPaths, ServerContext
from pushsvc.server.fastpath.admission import StreamRequest
from pushsvc.server.fastpath.pending_read import LastAnswerSent
from pushsvc.server.fastpath.stream_cache import CachedStream
from pushsvc.server.request import BadRequest, Request
from pushsvc.server.request_reader import REPETITIONS, RequestReader
from pushsvc.server.response import closing, complete_head, encode
from pushsvc.server.transport import DeadlineExceeded, Disconnected, Draining, Transport
from pushsvc.server.wsgi import WsgiResponse, environ_of
from pushsvc.web import metrics
from pushsvc.web.capacity import REFUSAL
from pushsvc.web.long_requests import CLIENT, Requester
from pushsvc.web.problem import document_of, http_problem, internal_error
from pushsvc.web.rates.accounts import is_loopback
from pushsvc.web.rates.streams import call_all, hold
from pushsvc.web.request_id import HEADER, REQUEST_ID, accepted_id, identified, new_id
from pushsvc.web.responses import HANDOFF, HttpResponse, TakeOver

log = logging.getLogger(__name__)

_LINGER_BYTES = 64_000_000
_PAUSE = 0.1  # seconds after a 429: without it a client that asks again at once would be refused thousands of times


class HttpConnection:
    """Answers requests in their order, each by a fast path if it is admitted to one, else by the WSGI application.

    ``refusal`` is why the connection is beyond a limit. ``on_closed`` is called when the socket is closed.
    """

    def __init__(
        self,
        context: ServerContext,
        sock: socket.socket,
        address: tuple[str, int],
        refusal: str | None,
        on_closed: Callable[[], None],
    ) -> None:
        self._context = context
        self._fast_paths = context.fast_paths if refusal is None else None
        self._address = address
        self._refusal: str | TooManyRequests | None = refusal
        self._on_closed = on_closed
        self._keep_alive = False  # after the last answer
        self._unread = False  # the app left a part of the last request's body unread
        self.transport = Transport(sock, address[0], context.memory, context.deadlines.pace)
        self._at_close: list[Callable[[], None]] = []
        self._behind_proxy = address[0] in context.proxies
        self._client = self._requester(Client(address[0]))
        self._of_subject: tuple[Grants, Requester, Requester] | None = None  # the last grants, and whom they belong to
        self._scheme: str | None = None  # that of the client, if a proxy tells it
        self._request_id = ""
        self._begun = 0.0
        self._status = 0  # of the last answer
        self._reader = RequestReader(self.transport, context)

    def run(self) -> None:
        """Serve until the end of the connection, or until a stream has taken the socket."""
        handed_over = False
        try:
            self._count_connection()
            if self._context.tls is not None:
                self.transport.set_deadline(self._context.deadlines.handshake)
                self.transport.start_tls(self._context.tls)
            take_over = self._serve()
            if take_over is not None:
                self._hand_over(take_over)
                handed_over = True
        except Disconnected:
            pass  # nobody is left to be answered
        except (DeadlineExceeded, Draining):
            self._shutdown_write()
        except LastAnswerSent as end:
            self._shutdown_write()
            if end.unread:
                with suppress(Disconnected, DeadlineExceeded):
                    self._linger()
        except Exception:
            log.exception("a connection of %s failed", self._address[0])
        finally:
            if not handed_over:
                self.transport.release().close()
                call_all([*self._at_close, self._on_closed])

    def _count_connection(self) -> None:
        """Count the connection for its address. A refused one gets an answer, too."""
        if self._refusal is None and not self._behind_proxy:
            try:
                for account in self._client.accounts or ():
                    account.count_connection()
            except TooManyRequests as error:
                metrics.REFUSED.inc()
                self._refusal, self._fast_paths = error, None

    def _requester(self, client: Client) -> Requester:
        accounts = self._context.accounts
        own = () if accounts is None else accounts.of_address(client.address, forwarded=client.forwarded)
        local = not client.forwarded and is_loopback(client.address)
        return Requester(client.address, self.transport.peer_gone, own, local, self._at_close.append)

    def _client_of(self, grants: Grants) -> Requester:
        """Return the client with the account of its subject, as the app would."""
        accounts, client = self._context.accounts, self._client
        if accounts is None or not grants.subject:
            return client
        known = self._of_subject
        if known is None or known[0] is not grants or known[1] is not client:
            account = accounts.of_subject(grants.subject, loopback=client.local)
            known = self._of_subject = grants, client, client._replace(accounts=(*(client.accounts or ()), *account))
        return known[2]

    def drain(self) -> None:
        """End the connection unless a request is under way. Call it in gevent's hub."""
        self._reader.drain()

    def _serve(self) -> Callable[[socket.socket, Callable[[], None]], None] | None:
        """Answer requests; return the callback that takes the socket, None at the end of the connection."""
        while True:
            request = None
            try:
                request = self._reader.next()
                if request is None:
                    self._shutdown_write()
                    return None
                self._context.turns.wait(len(request.path) + len(request.query))
                self._identify(request)
                take_over = self._answer(request)
            except BadRequest as error:
                metrics.BAD_REQUESTS.inc()
                refusal = http_problem(error.status, error.detail)
                break
            except MemoryFull as error:
                refusal = document_of(error)
                break
            if take_over is not None:
                return partial(take_over, chunked=request.version == 1)
            if not self._keep_alive:
                self._shutdown_write()
                if self._unread or self._reader.buffer:
                    self._linger()
                return None
            # A proxy sends requests of others on the same connection.
            if self._status == TooManyRequests.status and not self._behind_proxy:
                gevent.sleep(_PAUSE)
        self._refuse(refusal, request)  # here, because the error refers to what was held for the request
        if request is not None:
            self._note(request, refusal.status)
        return None

    def _identify(self, request: Request) -> None:
        """Choose the id of a request and, if a trusted proxy forwards it, find out the client. Raise BadRequest."""
        if self._context.access_log:
            self._begun = perf_counter()
        if not self._behind_proxy:
            self._request_id = new_id()
            return
        self._request_id = accepted_id(request.headers.get("x-request-id"))
        try:
            client = self._context.proxies.client(self._address[0], request.headers)
        except AmbiguousClient as error:
            raise BadRequest(400, str(error)) from None
        self._scheme = client.scheme
        if client.address != self._client.address or client.forwarded == self._client.local:
            self._client = self._requester(client)
            self.transport.count_for(client.address)

    def _note(self, request: Request, status: int) -> None:
        """Remember the status of an answer, and write its line to the access log, if there is one."""
        self._status = status
        if self._context.access_log:
            address = self._client.address
            note_answer(request, status=status, id=self._request_id, address=address, begun=self._begun)

    def _answer(self, request: Request) -> TakeOver | None:
        """Send the answer; return the callback that takes the socket, if the answer is a stream."""
        paths = self._fast_paths
        try:
            if paths is not None and (topic := paths.admission.publish_topic(request)) is not None:
                grants = paths.admission.publisher(request, topic)
                if grants is None:
                    return self._respond(request).take_over
                self._publish(paths, topic, request, grants)
                return None
            if paths is not None and (wanted := paths.admission.stream_request(request)) is not None:
                return self._answer_stream(paths, wanted, request)
            return self._respond(request).take_over
        except DeadlineExceeded:
            raise BadRequest(408, "the body of the request did not arrive in time") from None

    def _answer_stream(self, paths: FastPaths, wanted: StreamRequest, request: Request) -> TakeOver | None:
        """Answer from the stream cache; else let the app answer and remember its stream."""
        if self._scheme is not None:  # an answer over TLS has one more header
            wanted = wanted._replace(key=(*wanted.key, self._scheme))
        cached = paths.streams.find(wanted)
        take_over = None if cached is None else self._open_cached(cached, request, wanted.grants)
        if take_over is not None:
            return take_over
        with paths.streams.answering(wanted):
            response = self._respond(request)
            if response.take_over is not None and response.factory is not None:
                paths.streams.remember(wanted, response.stream_head, response.factory)
        return response.take_over

    def _publish(self, paths: FastPaths, topic: str, request: Request, grants: Grants) -> None:
        """Answer a request of the publish fast path."""
        length, buffer = request.length or 0, self._reader.buffer
        if len(buffer) >= length:  # it arrived with the head, as single events do
            data = bytes(buffer[:length])
            del buffer[:length]
            self._publish_body(paths, topic, request, grants, data)
            return
        body = self._body_of(request)
        try:
            self._publish_body(paths, topic, request, grants, body.read_whole())
        finally:
            body.release()

    def _publish_body(self, paths: FastPaths, topic: str, request: Request, grants: Grants, data: bytes) -> None:
        client = self._client_of(grants)
        try:
            response = paths.publisher.publish(topic, request, data, client, grants, self._request_id)
        except Exception:
            log.exception("POST %s failed", request.path)
            self._keep_alive = False
            self._note(request, 500)
            self.transport.send(closing(identified(internal_error(), self._request_id)))
            return
        response = identified(response, self._request_id)
        self._note(request, response.status)
        if paths.batcher is not None and response.status == 202 and not self._behind_proxy:
            self._reader.batch_repetitions(paths.batcher, request, client.accounts or (), grants)
        keep_alive = self._keep_alive = request.keep_alive and not self._context.draining.is_set()
        self.transport.send(encode(response, keep_alive=keep_alive, version=request.version))

    def _open_cached(self, cached: CachedStream, request: Request, grants: Grants) -> TakeOver | None:
        """Send the cached head of a stream; None if the stream cannot open now, which the app must explain."""
        client = self._client_of(grants)
        try:
            client.count_request()
            stream = cached.factory(request.headers.get("last-event-id") or None).under(grants)
            stream.open()
            if self._context.streams is not None:
                release = hold(self._context.streams, client.accounts or (), grants)
                if release is not None:
                    self._at_close.append(release)
        except PushError:
            return None
        self._unread = False
        self._note(request, 200)
        self.transport.send(complete_head(f"{cached.head}{HEADER}: {self._request_id}\r\n"), more=True)
        return stream.take_over

    def _respond(self, request: Request) -> WsgiResponse:
        """Let the app answer; return its response."""
        context, body = self._context, self._body_of(request)
        may_keep_alive = request.keep_alive and self._refusal is None
        response = WsgiResponse(self.transport, request, body, lambda: may_keep_alive and not context.draining.is_set())
        address = self._address if self._client.address == self._address[0] else (self._client.address, 0)
        environ = environ_of(context.environ, request, address, body.stream(request.length))
        environ[CLIENT] = self._client
        environ[REQUEST_ID] = self._request_id
        environ[FORWARDS] = body.pass_on
        if self._scheme is not None:
            environ["wsgi.url_scheme"] = self._scheme
        if self._refusal is not None:
            environ[REFUSAL] = self._refusal
        elif request.method != "HEAD":
            environ[HANDOFF] = response.handoff
        if may_keep_alive and request.version == 1 and not self._behind_proxy:
            environ[REPETITIONS] = self._reader.batch_repetitions
        try:
            response.run(context.app, environ)
        except (BadRequest, DeadlineExceeded, Disconnected, MemoryFull):
            if response.started:
                raise Disconnected from None  # an error response cannot follow half a response
            raise
        except Exception:
            if not response.started:
                body.raise_fault()
            log.exception("%s %s failed", request.method, request.path)
            if response.started:
                raise Disconnected from None
            failure = identified(internal_error(), self._request_id)
            self.transport.send(closing(failure, bodiless=request.method == "HEAD"))
            response.keep_alive = False
            response.take_over = None
        finally:
            self._unread = not body.done
            body.release()
        self._keep_alive = response.keep_alive
        self._note(request, response.status)
        return response

    def _body_of(self, request: Request) -> RequestBody:
        return RequestBody(self.transport, self._reader.buffer, request, self._context.memory)

    def _refuse(self, refusal: HttpResponse, request: Request | None) -> None:
        """Send the last answer, with the headers that the app gives every answer. There may be no request to it."""
        origin = None if request is None else request.headers.get("origin")
        id = new_id() if request is None else self._request_id
        refusal.headers.extend(self._context.common_headers(origin))
        bodiless = request is not None and request.method == "HEAD"
        self.transport.send(closing(identified(refusal, id), bodiless=bodiless))
        self._shutdown_write()
        self._linger()

    def _shutdown_write(self) -> None:
        self._reader.idle = True
        self.transport.set_deadline(self._context.deadlines.linger)
        with suppress(Disconnected, DeadlineExceeded, Draining):
            self.transport.shutdown_write()

    def _linger(self) -> None:
        """Read and drop what the peer still sends: closing a socket with unread bytes destroys the last answer."""
        self.transport.set_deadline(self._context.deadlines.linger)
        read = len(self._reader.buffer)
        while read < _LINGER_BYTES and (data := self.transport.receive()):
            read += len(data)
            self.transport.yield_to_loop()

    def _hand_over(self, take_over: Callable[[socket.socket, Callable[[], None]], None]) -> None:
        sock = self.transport.release()
        on_closed = partial(call_all, (*self._at_close, self._on_closed)) if self._at_close else self._on_closed
        try:
            take_over(sock, on_closed)
        except Exception:
            log.exception("a stream to %s could not take its socket", self._address[0])
            sock.close()
            on_closed()
