"""The limit of connections, as browsers and producers see it."""

import os
import select
import signal
import socket
import time
from contextlib import ExitStack

from pushsvc.server.accept import TICK
from support.processes import children, needs_proc
from support.waiting import until


def test_stream_beyond_the_connection_limit_gets_a_retry(stack, topic):
    stack.start_web("--max-connections", "1", "--heartbeat", "1", "--allow-origin", "http://page.example")
    path = f"/v1/topics/{topic}/events"
    with ExitStack() as first:
        until(lambda: admitted(stack, path, first))
        with stack.stream(path, Origin="http://page.example") as refused:
            assert refused.status == 200
            # Without this header a browser takes the response for a failure and never reconnects.
            assert refused.response.headers["Access-Control-Allow-Origin"] == "http://page.example"
            words = refused.rest()
        assert words.startswith(b"retry: ")
        assert 2_000 <= int(words.split()[1]) < 4_000
        assert b": too many connections: this host accepts 1\n" in words
        answer = stack.post(topic, {"n": 1})
        assert answer.status == 503
        assert answer.headers["Retry-After"] == "5"
        assert answer.headers["Connection"] == "close"
        assert answer.json()["type"] == "urn:pushsvc:problem:full"
        assert stack.get("/livez").status == stack.get("/readyz").status == 200
        metrics = stack.get("/metrics").body.decode()
        assert "pushsvc_connections_refused_total 0.0" not in metrics
        assert "pushsvc_connections_refused_total" in metrics
    until(lambda: stack.post(topic, {"n": 1}).status == 202)


@needs_proc
def test_a_worker_near_its_descriptor_limit_leaves_accepting_to_another(stack, topic):
    """Each of two workers may have 144 connections. One of them is stopped while 200 arrive."""
    supervisor = stack.start_web_with(400, "--workers", "2")
    stack.post(topic, {"n": 1})
    workers = until(lambda: len(found := children(supervisor.pid, "_web")) == 2 and found)
    until(lambda: all(listens_alone(stack, workers, worker) for worker in workers))
    os.kill(workers[1], signal.SIGSTOP)
    with ExitStack() as opened:
        sockets = [opened.enter_context(socket.create_connection(("127.0.0.1", stack.port))) for _ in range(200)]
        for sock in sockets:
            sock.sendall(f"GET /v1/topics/{topic} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        until(lambda: len(answered(sockets)) >= 135)
        os.kill(workers[1], signal.SIGCONT)
        until(lambda: len(answered(sockets)) == 200)
        assert {sock.recv(12) for sock in sockets} == {b"HTTP/1.1 200"}
    assert stack.metric("pushsvc_connections_refused_total") == 0


def answered(sockets):
    """Return the sockets that have bytes to read."""
    poll = select.poll()
    for sock in sockets:
        poll.register(sock, select.POLLIN)
    return poll.poll(0)


def listens_alone(stack, workers, worker):
    """Return whether a worker answers while the others are stopped."""
    others = [one for one in workers if one != worker]
    for other in others:
        os.kill(other, signal.SIGSTOP)
    try:
        with socket.create_connection(("127.0.0.1", stack.port), 0.5) as sock:
            sock.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            return sock.recv(12) == b"HTTP/1.1 200"
    except TimeoutError:
        return False
    finally:
        for other in others:
            os.kill(other, signal.SIGCONT)


def test_connections_and_bad_requests_are_counted(own_server):
    assert own_server.request("GET", "/", X="\x01").status == 400
    until(lambda: own_server.metric("pushsvc_bad_requests_total") == 1)
    until(lambda: own_server.metric("pushsvc_connections_accepted_total") > 2)
    assert own_server.metric("pushsvc_connections") >= 0


def test_event_loop_of_an_idle_server_does_not_spin(own_server):
    looks, begun = own_server.metric("pushsvc_loop_lag_seconds_count"), time.monotonic()
    until(lambda: own_server.metric("pushsvc_loop_lag_seconds_count") >= looks + 5)
    most = (time.monotonic() - begun) / TICK + 2
    assert own_server.metric("pushsvc_loop_lag_seconds_count") - looks <= most + 5, "its loop spins"


def test_workers_of_a_host_share_the_connection_limit(stack, topic):
    stack.start_web("--workers", "2", "--max-connections", "3")
    with ExitStack() as streams:
        for _ in range(3):
            until(lambda: admitted(stack, f"/v1/topics/{topic}/events", streams))
        # Each worker alone would have room left.
        assert [stack.post(topic, {"n": number}).status for number in range(8)] == [503] * 8


def admitted(stack, path, streams):
    """Return whether a new stream was accepted. It may be refused while an earlier connection is closing; ``streams``
    closes it."""
    stream = streams.enter_context(stack.stream(path))
    return b": pushsvc" in stream.read()


@needs_proc
def test_new_connections_go_to_the_emptier_worker(stack, topic):
    """All connections of the first 300 belong to one worker. Those of the next 250, one by one, belong to the other."""
    supervisor = stack.start_web_with(4_000, "--workers", "2")
    workers = until(lambda: len(found := children(supervisor.pid, "_web")) == 2 and found)
    until(lambda: all(listens_alone(stack, workers, worker) for worker in workers))
    with ExitStack() as opened:
        os.kill(workers[1], signal.SIGSTOP)
        try:
            first = connect(stack, opened, 300)
            until(lambda: len(answered(first)) == 300)  # although it is ahead: the other accepts nothing
        finally:
            os.kill(workers[1], signal.SIGCONT)
        before = sockets_of(workers[0])
        for _ in range(50):
            later = connect(stack, opened, 5)
            until(lambda later=later: len(answered(later)) == 5)
        assert sockets_of(workers[0]) - before <= 50, "the fuller worker went on accepting"
    assert stack.metric("pushsvc_connections_refused_total") == 0


def connect(stack, opened, count):
    """Return connections with a request each, which stay open."""
    sockets = [opened.enter_context(socket.create_connection(("127.0.0.1", stack.port))) for _ in range(count)]
    for sock in sockets:
        sock.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return sockets


def sockets_of(worker):
    """Return how many descriptors a process has."""
    return len(os.listdir(f"/proc/{worker}/fd"))
