"""One connection from its first request until it closes or hands its socket to a stream."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from contextlib import suppress

from pushsvc.server.context import ServerContext
from pushsvc.server.fastpath.pending_read import LastAnswerSent
from pushsvc.server.request import BadRequest
from pushsvc.server.request_handler import RequestHandler
from pushsvc.server.request_reader import RequestReader
from pushsvc.server.response import closing
from pushsvc.server.transport import DeadlineExceeded, Disconnected, Draining, Transport
from pushsvc.web import metrics
from pushsvc.web.handoff import TakeOver
from pushsvc.web.problem import http_problem

log = logging.getLogger(__name__)

_LINGER_BYTES = 64_000_000


class HttpConnection:
    """Answers requests in their order.

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
        self._tls, self._deadlines = context.tls, context.deadlines
        self._address = address
        self._on_closed = on_closed
        self.transport = Transport(sock)
        self._reader = RequestReader(self.transport, context, may_keep_alive=refusal is None)
        self._handler = RequestHandler(self.transport, self._reader, context, address, refusal)

    def run(self) -> None:
        """Serve until the end of the connection, or until a stream has taken the socket."""
        handed_over = False
        try:
            if self._tls is not None:
                self.transport.set_deadline(self._deadlines.handshake)
                self.transport.start_tls(self._tls)
            take_over = self._serve()
            if take_over is not None:
                handed_over = True
                self._hand_over(take_over)
        except Disconnected:
            pass
        except (DeadlineExceeded, Draining):
            self._shutdown_write()
        except LastAnswerSent as end:
            self._shutdown_write()
            if end.unread:
                with suppress(Disconnected, DeadlineExceeded):
                    self._linger()
        except Exception:
            log.exception("a connection of %s ended", self._address[0])
        finally:
            if not handed_over:
                self.transport.release().close()
                self._on_closed()

    def drain(self) -> None:
        """End the connection unless a request is under way. Call it in gevent's hub."""
        self._reader.drain()

    def _serve(self) -> TakeOver | None:
        """Answer requests; return the callback that takes the socket, None at the end of the connection."""
        while True:
            try:
                request = self._reader.next()
                if request is None:
                    self._shutdown_write()
                    return None
                take_over = self._handler.handle(request)
            except BadRequest as error:
                self._refuse(error)
                return None
            if take_over is not None:
                return take_over
            if not request.keep_alive:
                self._shutdown_write()
                if self._handler.unread or self._reader.buffer:
                    self._linger()
                return None

    def _refuse(self, error: BadRequest) -> None:
        metrics.BAD_REQUESTS.inc()
        self.transport.send(closing(http_problem(error.status, error.detail)))
        self._shutdown_write()
        self._linger()

    def _shutdown_write(self) -> None:
        self._reader.idle = True
        self.transport.set_deadline(self._deadlines.linger)
        with suppress(Disconnected, DeadlineExceeded, Draining):
            self.transport.shutdown_write()

    def _linger(self) -> None:
        """Read and drop what the peer still sends: closing a socket with unread bytes destroys the last answer."""
        self.transport.set_deadline(self._deadlines.linger)
        read = len(self._reader.buffer)
        while read < _LINGER_BYTES and (data := self.transport.receive()):
            read += len(data)
            self.transport.yield_to_loop()

    def _hand_over(self, take_over: TakeOver) -> None:
        sock = self.transport.release()
        try:
            take_over(sock, self._on_closed)
        except Exception:
            log.exception("a stream to %s could not take its socket", self._address[0])
            sock.close()
            self._on_closed()
