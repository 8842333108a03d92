"""A process of pushsvc's HTTP server alone, with an app for its tests: ``python wsgi_site.py '{"head": 0.2}'``.

Options are deadlines and ``total``, ``per_address``, ``files``, ``certfile``. It prints its port and serves until TERM.
"""

import json
import logging
import os
import resource
import signal
import socket
import sys
from dataclasses import fields, replace

import gevent
from gevent.event import Event

from pushsvc.server.accept import Acceptor
from pushsvc.server.caps import Caps
from pushsvc.server.connection import Deadlines, Site
from pushsvc.server.tls import tls_context
from pushsvc.server.wsgi import base_environ
from pushsvc.web.answer import Answers

TEXT = [("Content-Type", "text/plain")]
taken = []


def echo(environ, start_response):
    """Tell what arrived."""
    body = environ["wsgi.input"].read()
    told = {name: value for name, value in environ.items() if isinstance(value, str)}
    answer = json.dumps(told | {"body": body.decode("latin-1")}).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
    return [answer]


def unread(environ, start_response):
    start_response("200 OK", [*TEXT, ("Content-Length", "6")])
    return [b"unread"]


def lines(environ, start_response):
    """Read the body by lines, then a bit, then the rest."""
    stream = environ["wsgi.input"]
    parts = [stream.readline(), stream.readline(3), stream.read(2), *stream]
    start_response("200 OK", TEXT)
    return [repr(parts).encode()]


def pieces(environ, start_response):
    start_response("200 OK", TEXT)
    yield b"one"
    yield b""
    yield b"two"


def written(environ, start_response):
    write = start_response("200 OK", TEXT)
    write(b"written ")
    return [b"returned"]


def raises(environ, start_response):
    raise ValueError("asked for")


def raises_late(environ, start_response):
    start_response("200 OK", TEXT)
    yield b"begun"
    raise ValueError("asked for, late")


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
    closed = 0

    def __iter__(self):
        return iter([b"a", b"b"])

    def close(self):
        Closing.closed += 1


def closes(environ, start_response):
    start_response("200 OK", TEXT)
    return Closing()


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


def hands_over(environ, start_response):
    """Give the connection to a taker that writes what it knows of it, waits for a byte and closes."""
    handoff = environ.get("pushsvc.handoff")
    if handoff is not None:
        handoff(take_failing if environ["QUERY_STRING"] == "fail" else take)
    status = "404 Not Found" if environ["QUERY_STRING"] == "404" else "200 OK"
    start_response(status, [("Content-Type", "text/event-stream")])
    return [] if handoff is not None and environ["QUERY_STRING"] != "body" else [b"body"]


def take(sock, on_close):
    sock.send(
        f"{type(sock).__mro__[-3].__module__} {sock.gettimeout()} {type(gevent.getcurrent()).__name__}\n".encode()
    )
    taken.append(gevent.spawn(wait_and_close, sock, on_close))


def wait_and_close(sock, on_close):
    while True:
        try:
            sock.recv(1)
            break
        except OSError:  # nothing yet, in the words of plain sockets and of TLS
            gevent.sleep(0.01)
    sock.close()
    on_close()
    on_close()


def take_failing(sock, on_close):
    sock.send(b"half")
    raise ValueError("asked for by the taker")


def exhausts(environ, start_response):
    """Take every descriptor for a while."""
    taken = []
    try:
        while True:
            taken.append(os.dup(0))
    except OSError:
        gevent.sleep(1)
    for descriptor in taken:
        os.close(descriptor)
    start_response("200 OK", TEXT)
    return [b"exhausted"]


def refuses(environ, start_response):
    start_response("503 Full", TEXT)
    return [environ["pushsvc.refused"].encode()]


class Lane:
    """Answers POST /lane past the app."""

    def topic_of(self, request):
        return request.path if request.method == "POST" and request.path.startswith("/lane") else None

    def publish(self, topic, request, body):
        if body == b"raise":
            raise ValueError("asked for in the lane")
        return 202, [("Content-Type", "text/plain")], b"lane " + body

    def publish_together(self, topic, bodies):
        if any(b"slow" in body for body in bodies):
            gevent.sleep(0.5)
        if any(b"raise" in body for body in bodies):
            raise ValueError("asked for in the lane")
        if any(b"apart" in body for body in bodies):
            return None
        texts = [b"together " + body + b"x" * (10_000_000 if b"large" in body else 0) for body in bodies]
        return Answers(202, [("Content-Type", "text/plain")], texts)


APPS = {
    "/unread": unread, "/lines": lines, "/pieces": pieces, "/written": written, "/raises": raises,
    "/raises-late": raises_late, "/recovers": recovers, "/splits": splits, "/long": long, "/short": short,
    "/nothing": nothing, "/silent": silent, "/closes": closes, "/closed": closed, "/big": big, "/waits": waits,
    "/exhausts": exhausts,
    "/stream": hands_over,
}  # fmt: skip


def app(environ, start_response):
    chosen = refuses if "pushsvc.refused" in environ else APPS.get(environ["PATH_INFO"], echo)
    return chosen(environ, start_response)


def say(word):
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def main(options):
    logging.basicConfig()
    if "files" in options:
        resource.setrlimit(resource.RLIMIT_NOFILE, (options["files"], options["files"]))
    names = {field.name for field in fields(Deadlines)}
    deadlines = replace(Deadlines(), **{name: value for name, value in options.items() if name in names})
    tls = tls_context(options["certfile"], None) if "certfile" in options else None
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    site = Site(app, base_environ(listener.getsockname(), "http"), Lane(), tls, deadlines=deadlines)
    caps = Caps(options.get("total", 0), options.get("per_address", 0), loopback_counts=True)
    acceptor = Acceptor(listener, site, caps)
    stopping = Event()
    gevent.signal_handler(signal.SIGTERM, stopping.set)
    acceptor.start()
    say(port)
    stopping.wait()
    acceptor.stop()
    say("drained" if acceptor.drain().wait(options.get("drain", 30)) else "overdue")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
