"""A queue and a generator per client on gevent's own server: ``python site_generators.py PORT``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

from gevent import monkey

monkey.patch_all()

from gevent.pywsgi import WSGIServer  # noqa: E402
from gevent.queue import Queue  # noqa: E402

queues: set[Queue[bytes]] = set()


def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterator[bytes]:
    if environ["REQUEST_METHOD"] == "POST":
        frame = b"data: %b\n\n" % environ["wsgi.input"].read()
        for queue in queues:
            queue.put_nowait(frame)
        start("202 Accepted", [("Content-Length", "0")])
        return iter(())
    start("200 OK", [("Content-Type", "text/event-stream"), ("Connection", "close")])
    return messages()


def messages() -> Iterator[bytes]:
    queue: Queue[bytes] = Queue()
    queues.add(queue)
    try:
        yield b":\n\n"
        while True:
            yield queue.get()
    finally:
        queues.discard(queue)


WSGIServer(("127.0.0.1", int(sys.argv[1])), app, log=None, backlog=4096).serve_forever()
