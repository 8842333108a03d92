"""The limit of connections, as browsers and producers see it."""

import socket
import time
from contextlib import ExitStack

from pushsvc.server.accept import TICK
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


def test_health_checks_are_answered_while_idle_connections_fill_every_room(stack, topic):
    stack.start_web("--max-connections", "1")
    with ExitStack() as opened:
        until(lambda: admitted(stack, f"/v1/topics/{topic}/events", opened))
        for _ in range(300):
            opened.enter_context(socket.create_connection(("127.0.0.1", stack.port)))
        for path in ("/livez", "/readyz", "/metrics"):
            assert stack.get(path).status == 200
        assert stack.metric("pushsvc_connections_refused_total") >= 300


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
