"""Accepting: bursts of connections, and workers that share a listening socket."""

from __future__ import annotations

import errno
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from pushsvc.supervisor.listener import listen
from support.raw_http import ServerProcess, parse_responses, read_all
from support.waiting import until

REQUEST = b"GET /process HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
SOMAXCONN = Path("/proc/sys/net/core/somaxconn")
BURST = 1_200


@pytest.fixture
def descriptors() -> Iterator[ExitStack]:
    """Closes the sockets of a test."""
    with ExitStack() as stack:
        yield stack


def begin_connection(port: int, descriptors: ExitStack) -> socket.socket:
    sock = descriptors.enter_context(closing(socket.socket()))
    sock.setblocking(False)
    assert sock.connect_ex(("127.0.0.1", port)) in (0, errno.EINPROGRESS)
    return sock


def is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def test_the_listening_socket_holds_as_many_connections_as_the_system_allows(descriptors: ExitStack) -> None:
    if not SOMAXCONN.exists():
        pytest.skip("the system does not tell its greatest backlog in /proc")
    if int(SOMAXCONN.read_text()) < BURST:
        pytest.skip(f"net.core.somaxconn is below {BURST}")
    listener = descriptors.enter_context(listen("127.0.0.1", 0))
    port = listener.getsockname()[1]
    opened = [begin_connection(port, descriptors) for _ in range(BURST)]
    # A connection without room in the queue would stay unanswered until something accepts.
    until(lambda: all(map(is_connected, opened)))


def test_all_clients_of_a_burst_are_answered(
    start_server: Callable[..., ServerProcess], descriptors: ExitStack
) -> None:
    server = start_server()
    server.process.send_signal(signal.SIGSTOP)
    opened = [begin_connection(server.port, descriptors) for _ in range(100)]
    for sock in opened:
        sock.setblocking(True)
        sock.sendall(REQUEST)
    server.process.send_signal(signal.SIGCONT)
    opened += [descriptors.enter_context(server.connect()) for _ in range(500)]
    for sock in opened[100:]:
        sock.sendall(REQUEST)
    expected = str(server.process.pid).encode()
    assert [response.body for sock in opened for response in parse_responses(read_all(sock))] == [expected] * 600


def test_connections_of_a_burst_are_answered_while_others_never_send(
    start_server: Callable[..., ServerProcess], descriptors: ExitStack
) -> None:
    server = start_server()
    for _ in range(300):
        descriptors.enter_context(server.connect())
    [response] = server.exchange(REQUEST)
    assert response.status == 200


def test_workers_share_connections_that_come_one_after_the_other(
    start_server: Callable[..., ServerProcess], descriptors: ExitStack
) -> None:
    listener = descriptors.enter_context(listen("127.0.0.1", 0))
    listener.set_inheritable(True)
    servers = [start_server(listener=listener.fileno()) for _ in range(2)]
    answered: Counter[bytes] = Counter()
    for number in range(10_000):
        if number >= 100 and len(answered) == 2 and min(answered.values()) >= number / 10:
            break
        [response] = servers[0].exchange(REQUEST)
        answered[response.body] += 1
    assert min(answered.values()) >= answered.total() / 10, answered
