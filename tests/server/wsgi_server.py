"""Runs pushsvc's HTTP server with an app for its tests: ``python wsgi_server.py '{"head": 0.2}'``.

The options are deadlines, ``body`` and ``rate`` of a pace, ``memory``, ``memory_per_address``, ``total``,
``per_address``, ``files``, ``certfile``, ``listener`` (the descriptor of a listening socket), ``switch_interval`` (the
seconds for which gevent runs callbacks in one turn of its loop). It prints its port and serves until SIGTERM.
"""

import itertools
import json
import logging
import os
import resource
import signal
import socket
import sys
import time
from dataclasses import fields, replace

import gevent
from gevent.event import Event

from pushsvc.auth.grants import EVERYTHING
from pushsvc.server.accept import Acceptor
from pushsvc.server.caps import Caps
from pushsvc.server.context import Deadlines, FastPaths, ServerContext
from pushsvc.server.fastpath.post_batcher import PostBatcher
from pushsvc.server.fastpath.stream_cache import StreamCache
from pushsvc.server.tls import tls_context
from pushsvc.server.transport import Pace
from pushsvc.server.wsgi import base_environ
from pushsvc.supervisor.listener import BACKLOG
from pushsvc.web.memory.budget import MemoryBudget
from pushsvc.web.responses import BatchResponse, HttpResponse

TEXT = [("Content-Type", "text/plain")]
handed_over = []
working = []


def echo(environ, start_response):
    """Return the request as JSON."""
    body = environ["wsgi.input"].read()
    received = {name: value for name, value in environ.items() if isinstance(value, str)}
    answer = json.dumps(received | {"body": body.decode("latin-1")}).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
    return [answer]


def unread(environ, start_response):
    start_response("200 OK", [*TEXT, ("Content-Length", "6")])
    return [b"unread"]


def lines(environ, start_response):
    """Read a line, a few bytes, then the other lines."""
    stream = environ["wsgi.input"]
    parts = [stream.readline(), stream.readline(3), stream.read(2), *stream]
    start_response("200 OK", TEXT)
    return [repr(parts).encode()]


def pieces(environ, start_response):
    start_response("200 OK", TEXT)
    yield b"one"
    yield b""
    yield b"two"


def dated(environ, start_response):
    start_response("200 OK", [*TEXT, ("Date", "Thu, 01 Jan 1970 00:00:00 GMT")])
    return [b"dated"]


def written(environ, start_response):
    write = start_response("200 OK", TEXT)
    write(b"written ")
    return [b"returned"]


def raises(environ, start_response):
    raise ValueError("on purpose")


def raises_late(environ, start_response):
    start_response("200 OK", TEXT)
    yield b"begun"
    raise ValueError("on purpose, late")


def recovers(environ, start_response):
    start_response("200 OK", TEXT)
    try:
        raise ValueError("recovered from")
    except ValueError:
        start_response("503 Better Later", TEXT, sys.exc_info())
    return [b"sorry"]


def splits(environ, start_response):
    start_response("200 OK", [("X-A", "b\r\nX-Injected: c")])
    return [b"never"]


def long(environ, start_response):
    start_response("200 OK", [*TEXT, ("Content-Length", "4")])
    return [b"four and more"]


def short(environ, start_response):
    start_response("200 OK", [*TEXT, ("Content-Length", "40")])
    return [b"less"]


def nothing(environ, start_response):
    start_response("204 No Content", [("Content-Length", "0")])
    return []


def silent(environ, start_response):
    return [b"no head"]


class Closing:
    """An iterable of pieces; ``closed`` counts how many were closed."""

    closed = 0

    def __init__(self, pieces):
        self._pieces = pieces

    def __iter__(self):
        return iter(self._pieces)

    def close(self):
        Closing.closed += 1


def closes(environ, start_response):
    start_response("200 OK", TEXT)
    return Closing([b"a", b"b"])


def endless(environ, start_response):
    start_response("200 OK", TEXT)
    return Closing(itertools.repeat(b"x" * 65_536))


def closed(environ, start_response):
    start_response("200 OK", TEXT)
    return [b"%d" % Closing.closed]


def big(environ, start_response):
    start_response("200 OK", TEXT)
    return [b"x" * 10_000_000]


def waits(environ, start_response):
    gevent.sleep(1.0)
    start_response("200 OK", TEXT)
    return [b"waited"]


def turn(environ, start_response):
    """Work for 5 ms; answer with the number of the turn of the event loop."""
    until = time.monotonic() + 0.005
    while time.monotonic() < until:
        pass
    start_response("200 OK", TEXT)
    return [b"%d" % gevent.get_hub().loop.iteration]


def hands_over(environ, start_response):
    """Hand the socket to a callback that describes it to the client, waits for a byte and closes it."""
    handoff = environ.get("pushsvc.handoff")
    if handoff is not None:
        handoff(take_over_and_fail if environ["QUERY_STRING"] == "fail" else take_over)
    status = "404 Not Found" if environ["QUERY_STRING"] == "404" else "200 OK"
    start_response(status, [("Content-Type", "text/event-stream")])
    return [] if handoff is not None and environ["QUERY_STRING"] != "body" else [b"body"]


def take_over(sock, on_close, *, chunked):
    kind, greenlet = type(sock).__mro__[-3].__module__, type(gevent.getcurrent()).__name__
    text = f"{kind} {sock.gettimeout()} {greenlet}\n".encode()
    sock.send(b"%x\r\n%b\r\n" % (len(text), text) if chunked else text)
    handed_over.append(gevent.spawn(wait_and_close, sock, on_close))


def wait_and_close(sock, on_close):
    while True:
        try:
            sock.recv(1)
            break
        except OSError:  # nothing to read yet: the error differs under TLS
            gevent.sleep(0.01)
    sock.close()
    on_close()
    on_close()


def take_over_and_fail(sock, on_close, *, chunked):
    sock.send(b"4\r\nhalf\r\n" if chunked else b"half")
    raise ValueError("on purpose in the callback")


def exhausts(environ, start_response):
    """Use up all descriptors until the file exists that the query names."""
    duplicates = []
    try:
        while True:
            duplicates.append(os.dup(0))
    except OSError:
        logging.warning("descriptors are exhausted")
    while not os.path.exists(environ["QUERY_STRING"]):
        gevent.sleep(0.05)
    for descriptor in duplicates:
        os.close(descriptor)
    start_response("200 OK", TEXT)
    return [b"exhausted"]


def refuses(environ, start_response):
    start_response("503 Full", TEXT)
    return [environ["pushsvc.refused"].encode()]


def tells_process(environ, start_response):
    start_response("200 OK", TEXT)
    return [b"%d" % os.getpid()]


def waits_after_body(environ, start_response):
    """Tell how many requests with a body are worked on at the same time."""
    environ["wsgi.input"].read()
    working.append(environ)
    most = 0
    for _ in range(5):
        most = max(most, len(working))
        gevent.sleep(0.02)
    working.remove(environ)
    start_response("200 OK", TEXT)
    return [b"at most %d at a time" % most]


class FastAdmission:
    """Admits POST /fast to the publish fast path and, as JSON, to batches."""

    def publish_topic(self, request):
        return request.path if request.method == "POST" and request.path.startswith("/fast") else None

    def publisher(self, request, topic):
        return EVERYTHING

    def is_current(self, grants):
        return True

    def batch_topic(self, request):
        repeatable = request.keep_alive and request.version == 1 and request.length
        is_json = request.headers.get("content-type") == "application/json"
        return self.publish_topic(request) if repeatable and is_json else None

    def repeated_topic(self, line, length, grants):
        target = line.split()[1].decode()
        return target if target.startswith("/fast") else None

    def stream_request(self, request):
        return None


class EchoPublisher:
    """Answers with the body and the way it was published."""

    def publish(self, topic, request, body, client, grants, id):
        if body == b"raise":
            raise ValueError("on purpose in the fast path")
        return HttpResponse(202, TEXT, b"alone " + body)

    def primary_of(self, topic):
        return None

    def publish_batches(self, posts):
        every = [body for bodies in posts.values() for body in bodies]
        if any(b"slow" in body for body in every):
            gevent.sleep(0.5)
        if any(b"raise" in body for body in every):
            raise ValueError("on purpose in the fast path")
        return [self._answers(bodies) for bodies in posts.values()]

    def _answers(self, bodies):
        if any(b"apart" in body for body in bodies):
            return None
        answers = [b"batch " + body + b"x" * (10_000_000 if b"large" in body else 0) for body in bodies]
        return BatchResponse(202, TEXT, answers)


APPS = {
    "/unread": unread, "/lines": lines, "/pieces": pieces, "/dated": dated, "/written": written, "/raises": raises,
    "/raises-late": raises_late, "/recovers": recovers, "/splits": splits, "/long": long, "/short": short,
    "/nothing": nothing, "/silent": silent, "/closes": closes, "/closed": closed, "/endless": endless, "/big": big,
    "/waits": waits, "/turn": turn, "/exhausts": exhausts, "/stream": hands_over, "/process": tells_process,
    "/waits-after-body": waits_after_body,
}  # fmt: skip


def app(environ, start_response):
    chosen = refuses if "pushsvc.refused" in environ else APPS.get(environ["PATH_INFO"], echo)
    return chosen(environ, start_response)


def report(word):
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def main(options):
    logging.basicConfig()
    if "files" in options:
        resource.setrlimit(resource.RLIMIT_NOFILE, (options["files"], options["files"]))
    names = {field.name for field in fields(Deadlines)}
    gevent.setswitchinterval(options.get("switch_interval", gevent.getswitchinterval()))
    pace = Pace(options.get("body", 30.0), options.get("rate", 16_384))
    deadlines = replace(Deadlines(pace=pace), **{name: value for name, value in options.items() if name in names})
    memory = MemoryBudget(options.get("memory", 128_000_000), options.get("memory_per_address", 48_000_000))
    tls = tls_context(options["certfile"], None) if "certfile" in options else None
    inherited = options.get("listener")
    listener = (
        socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        if inherited is None
        else socket.socket(fileno=inherited)
    )
    port = listener.getsockname()[1]
    environ, draining, stopping = base_environ(listener.getsockname(), "http"), Event(), Event()
    admission, publisher = FastAdmission(), EchoPublisher()

    def tells_held(environ, start_response):
        start_response("200 OK", TEXT)
        return [b"%d" % (memory.held + memory.work.used)]

    APPS["/held"] = tells_held
    batcher = PostBatcher(publisher, admission, draining) if tls is None else None
    fast_paths = FastPaths(admission, publisher, StreamCache(), batcher)
    context = ServerContext(app, environ, fast_paths, tls, deadlines=deadlines, memory=memory, draining=draining)
    caps = Caps(options.get("total", 0), options.get("per_address", 0), loopback_counts=True)
    acceptor = Acceptor(listener, context, caps)
    gevent.signal_handler(signal.SIGTERM, stopping.set)
    acceptor.start()
    report(port)
    stopping.wait()
    acceptor.stop()
    report("drained" if acceptor.drain().wait(options.get("drain", 30)) else "overdue")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
