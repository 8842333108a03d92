"""The relay to an application that is slow, silent or too busy. Its sockets are real, the application is a socket."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from pushsvc.server.body import FORWARDS
from pushsvc.server.gateway.relay import Relay
from pushsvc.web.long_requests import CLIENT, Requester
from pushsvc.web.request_id import REQUEST_ID


@pytest.fixture
def application(tmp_path: Path) -> Iterator[socket.socket]:
    """Return a listener that takes connections and never answers."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "app.sock"))
        listener.listen(8)
        yield listener


def ask(relay: Relay, body: bytes = b"") -> tuple[int, dict[str, str], dict[str, Any]]:
    """Return status, headers and problem of the answer to a request."""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": "POST", "PATH_INFO": "/page", "REQUEST_URI": "/page", "wsgi.url_scheme": "http",
        "CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body), REQUEST_ID: "1", FORWARDS: lambda: None,
        CLIENT: Requester("127.0.0.1", lambda: False),
    }  # fmt: skip
    said: list[Any] = []
    answer = b"".join(relay(environ, lambda *given: said.extend(given)))
    return int(said[0][:3]), dict(said[1]), json.loads(answer)


def test_a_silent_application_is_a_timeout(application: socket.socket) -> None:
    relay = Relay(application.getsockname(), most=1, timeout=0.05)
    for _ in range(3):  # no place is lost
        status, _, problem = ask(relay)
        assert (status, problem["type"]) == (504, "urn:pushsvc:problem:gateway-timeout")


def test_an_application_that_does_not_read_a_body_is_a_timeout(application: socket.socket) -> None:
    status, _, _ = ask(Relay(application.getsockname(), most=1, timeout=0.05), b"x" * 4_000_000)
    assert status == 504


def test_an_application_that_does_not_run_is_unavailable(tmp_path: Path) -> None:
    relay = Relay(str(tmp_path / "nothing.sock"), most=1)
    for _ in range(3):
        status, headers, problem = ask(relay)
        assert (status, headers["Retry-After"]) == (503, "1")
        assert problem["detail"].startswith("the application does not run")


def test_requests_beyond_the_bound_are_refused_at_once(application: socket.socket) -> None:
    status, headers, problem = ask(Relay(application.getsockname(), most=0))
    assert (status, headers["Retry-After"]) == (503, "1")
    assert problem["detail"] == "too many requests wait for the application"
    application.setblocking(False)
    with pytest.raises(BlockingIOError):
        application.accept()


def test_a_large_answer_before_the_body_is_read_is_a_timeout_and_no_deadlock(application: socket.socket) -> None:
    """The relay reads the answer after it has passed on the body, so both would wait for each other."""

    def answer() -> None:
        taken, _ = application.accept()
        with taken, suppress(OSError):
            taken.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 8_000_000)

    relay = Relay(application.getsockname(), most=1, timeout=0.05)
    for _ in range(2):
        thread = Thread(target=answer)
        thread.start()
        status, _, _ = ask(relay, b"x" * 8_000_000)
        thread.join()
        assert status == 504
