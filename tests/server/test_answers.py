"""Answers of WSGI apps (PEP 3333) as bytes; deadlines; caps; draining; handed-over streams; TLS."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from pushsvc.server.transport import Pace
from support.raw_http import RawResponse, ServerProcess, parse_responses, read_all, read_until
from support.waiting import until

StartServer = Callable[..., ServerProcess]


def get(target: str, *fields: str, version: str = "1.1", method: str = "GET") -> bytes:
    lines = [f"{method} {target} HTTP/{version}", "Host: localhost", *fields]
    return "\r\n".join([*lines, "", ""]).encode()


NEXT = get("/next", "Connection: close")


def ask(server: ServerProcess, target: str, method: str = "GET") -> tuple[RawResponse, list[RawResponse]]:
    """Return the answer, and those to a second request on the same connection."""
    first, *rest = server.exchange(get(target, method=method) + NEXT, method)
    return first, rest


def test_pieces_without_a_length_are_chunked(server: ServerProcess) -> None:
    data = server.exchange(get("/pieces") + NEXT)
    assert data[0].headers["transfer-encoding"] == "chunked"
    assert (data[0].body, data[0].complete, data[1].status) == (b"onetwo", True, 200)


def test_http_10_clients_get_no_chunks(server: ServerProcess) -> None:
    [answer] = server.exchange(get("/pieces", "Connection: keep-alive", version="1.0"))
    assert answer.body == b"onetwo"
    assert "transfer-encoding" not in answer.headers


def test_a_list_of_one_piece_gets_a_content_length(server: ServerProcess) -> None:
    answer, rest = ask(server, "/closed")
    assert answer.headers["content-length"] == str(len(answer.body))
    assert rest


def test_the_date_is_the_servers_whatever_the_app_sends(server: ServerProcess) -> None:
    answer, _ = ask(server, "/dated")  # a header that is there twice fails the parsing
    assert (answer.status, "1970" in answer.headers["date"]) == (200, False)


@pytest.mark.parametrize("target", ["/pieces", "/closed", "/unread", "/raises"])
def test_an_answer_to_head_has_no_body(server: ServerProcess, target: str) -> None:
    answer, rest = ask(server, target, "HEAD")
    assert answer.body == b""
    assert len(rest) == (target != "/raises")


def test_204_has_neither_body_nor_content_length(server: ServerProcess) -> None:
    answer, rest = ask(server, "/nothing")
    assert answer.status == 204
    assert "content-length" not in answer.headers
    assert rest


def test_written_bytes_precede_the_returned_ones(server: ServerProcess) -> None:
    assert ask(server, "/written")[0].body == b"written returned"


def test_iterables_are_closed_also_for_head(server: ServerProcess) -> None:
    def closed() -> int:
        return int(ask(server, "/closed")[0].body)

    before = closed()
    ask(server, "/closes")
    ask(server, "/closes", "HEAD")
    assert closed() == before + 2


@pytest.mark.parametrize("how", ["end", "reset"])
@pytest.mark.parametrize("read", [1, 10_000_000])
def test_an_iterable_is_closed_when_its_reader_disconnects(server: ServerProcess, how: str, read: int) -> None:
    """The reader leaves while the server waits for room in the socket, or while it sends."""

    def closed() -> int:
        return int(ask(server, "/closed")[0].body)

    before, tracebacks = closed(), server.log.count("Traceback")
    with server.connect() as reader:
        reader.sendall(get("/endless"))
        while read > 0:
            read -= len(reader.recv(min(read, 65_536)))
        if how == "reset":
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    until(lambda: closed() > before)
    assert closed() == before + 1
    assert server.log.count("Traceback") == tracebacks


def test_the_input_can_be_read_by_lines(server: ServerProcess) -> None:
    body = b"one\ntwo\nthree\nfour\n"
    expected = repr([b"one\n", b"two", b"\nt", b"hree\n", b"four\n"]).encode()
    head = b"POST /lines HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    sized = head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    for request in (sized, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks):
        for step in (0, 1):
            [answer] = server.exchange(request, step=step)
            assert answer.body == expected


def test_an_exception_is_a_500_and_other_connections_continue(server: ServerProcess) -> None:
    with server.connect() as other:
        other.sendall(get("/waits", "Connection: close"))
        answer, rest = ask(server, "/raises")
        assert answer.status == 500
        problem = json.loads(answer.body)
        assert problem == {
            "type": "urn:pushsvc:problem:internal",
            "title": "Internal Server Error",
            "status": 500,
            "detail": "the log of the server has the details",
            "request_id": problem["request_id"],
        }
        assert rest == []
        assert parse_responses(read_all(other))[0].body == b"waited"
    assert "ValueError: on purpose\n" in server.log


def test_an_exception_after_the_head_cuts_the_body(server: ServerProcess) -> None:
    answer, rest = ask(server, "/raises-late")
    assert (answer.status, answer.body, answer.complete, rest) == (200, b"begun", False, [])


def test_exc_info_replaces_an_unsent_head(server: ServerProcess) -> None:
    answer, rest = ask(server, "/recovers")
    assert (answer.status, answer.body) == (503, b"sorry")
    assert rest


@pytest.mark.parametrize("target", ["/splits", "/silent"])
def test_a_wsgi_violation_of_the_app_is_a_500(server: ServerProcess, target: str) -> None:
    answer, _ = ask(server, target)
    assert answer.status == 500
    assert "x-injected" not in answer.headers


def test_a_body_of_the_wrong_length_ends_the_connection(server: ServerProcess) -> None:
    answer, rest = ask(server, "/long")
    assert (answer.body, rest) == (b"four", [])
    answer, rest = ask(server, "/short")
    assert (answer.body, answer.complete, rest) == (b"less", False, [])


def test_a_slow_reader_gets_the_whole_large_answer(server: ServerProcess) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        connection.settimeout(60)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(get("/big", "Connection: close"))
        [answer] = parse_responses(read_all(connection))
    assert len(answer.body) == 10_000_000


def test_an_answer_arrives_if_the_app_leaves_the_body_unread(server: ServerProcess) -> None:
    head = b"POST /unread HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20000000\r\n\r\n"
    [answer] = server.exchange(head + b"x" * 20_000_000)
    assert answer.body == b"unread"
    assert answer.headers["connection"] == "close"


def test_endless_pipelining_does_not_starve_other_connections(server: ServerProcess) -> None:
    with server.connect() as greedy:
        greedy.setblocking(False)
        requests, sent = get("/next") * 2_000, 0
        for _ in range(20):
            try:
                sent += greedy.send(requests)
            except BlockingIOError:
                break
        assert ask(server, "/unread")[0].status == 200
    assert sent


def test_endless_tiny_chunks_do_not_starve_other_connections(server: ServerProcess) -> None:
    answered, chunks = threading.Event(), b"1\r\nx\r\n" * 50_000
    with server.connect() as greedy:
        greedy.sendall(get("/", "Transfer-Encoding: chunked", method="POST") + chunks)

        def send() -> None:
            with suppress(OSError):
                while not answered.is_set():
                    greedy.sendall(chunks)

        sending = threading.Thread(target=send, daemon=True)
        sending.start()
        assert ask(server, "/unread")[0].status == 200
        answered.set()
    sending.join()


# The publish fast path


def fast(body: bytes, *fields: str, version: str = "1.1") -> bytes:
    return get("/fast", f"Content-Length: {len(body)}", *fields, version=version, method="POST") + body


@pytest.mark.parametrize("step", [0, 1])
def test_the_fast_path_and_the_app_answer_in_order(server: ServerProcess, step: int) -> None:
    answers = server.exchange(fast(b"one") + get("/unread") + fast(b"") + fast(b"two", "Connection: close"), step=step)
    assert [answer.body for answer in answers] == [b"alone one", b"unread", b"alone ", b"alone two"]
    assert [answer.headers.get("connection") for answer in answers] == [None, None, None, "close"]


def test_the_fast_path_obeys_the_connection_header_of_http_10(server: ServerProcess) -> None:
    first, second = server.exchange(fast(b"a", "Connection: keep-alive", version="1.0") + fast(b"b", version="1.0"))
    assert [first.headers["connection"], second.headers["connection"]] == ["keep-alive", "close"]


def test_an_exception_in_the_fast_path_is_a_500(server: ServerProcess) -> None:
    answer, rest = server.exchange(fast(b"raise") + NEXT)[0], server.exchange(NEXT)
    assert (answer.status, answer.headers["connection"]) == (500, "close")
    assert b"on purpose" not in answer.body
    assert "ValueError: on purpose in the fast path\n" in server.log
    assert rest[0].status == 200


# Deadlines. These tests do not measure time: without the deadline they would not end.


def test_a_slow_head_is_ended_at_its_deadline(start_server: StartServer) -> None:
    server = start_server(head=0.2)
    with server.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        [answer] = parse_responses(read_all(connection))
    assert answer.status == 408
    with server.connect() as connection:
        assert read_all(connection) == b""
    assert server.exchange(NEXT)[0].status == 200


def test_an_idle_connection_is_closed_without_an_answer(start_server: StartServer) -> None:
    with start_server(idle=0.2).connect() as connection:
        connection.sendall(get("/next"))
        [answer] = parse_responses(read_all(connection))
    assert answer.status == 200


def test_a_slow_body_is_ended_at_its_deadline(start_server: StartServer) -> None:
    with start_server(body=0.2, rate=1_000_000).connect() as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe")
        [answer] = parse_responses(read_all(connection))
    assert answer.status == 408


def test_a_body_that_stops_near_its_end_is_ended(start_server: StartServer) -> None:
    with start_server(body=0.2, rate=1).connect() as connection:  # by their rate the bytes could take 50 s
        connection.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 60\r\n\r\n" + b"x" * 50)
        [answer] = parse_responses(read_all(connection))
        assert answer.status == 408


def test_each_byte_at_the_required_rate_gives_more_time() -> None:
    pace = Pace(seconds=30.0, rate=1_000)
    assert pace.deadline(begun=100.0, now=100.0, done=0) == 130.0
    assert pace.deadline(begun=100.0, now=129.0, done=20_000) == 150.0
    assert pace.deadline(begun=100.0, now=129.0, done=1) == pytest.approx(130.001)
    assert pace.deadline(begun=100.0, now=101.0, done=1_000_000) == 131.0, "what came quickly does not allow a pause"
    assert pace.deadline(begun=100.0, now=101.0, done=1_000_000, size=5_000) == 136.0


# Streams handed over


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_a_stream_is_handed_over_after_its_head(connect: Any, version: str) -> None:
    connection = connect()
    connection.sendall(get("/stream", version=version) + NEXT)
    end = b"Greenlet\n\r\n" if version == "1.1" else b"Greenlet\n"
    [answer] = parse_responses(read_until(connection, end))
    assert answer.body == b"socket 0.0 Greenlet\n"
    assert answer.headers["connection"] == "close"
    assert answer.headers["content-type"] == "text/event-stream"
    assert "content-length" not in answer.headers
    assert answer.headers.get("transfer-encoding") == ("chunked" if version == "1.1" else None)
    connection.sendall(b"x")
    assert read_all(connection) == b""


@pytest.mark.parametrize(("target", "method"), [("/stream?404", "GET"), ("/stream?body", "GET"), ("/stream", "HEAD")])
def test_only_a_stream_that_starts_is_handed_over(server: ServerProcess, target: str, method: str) -> None:
    answer, rest = ask(server, target, method)
    assert answer.status in (200, 404)
    assert rest


def test_a_failing_take_over_ends_the_connection(server: ServerProcess) -> None:
    answer, rest = ask(server, "/stream?fail")
    assert (answer.body, rest) == (b"half", [])
    assert "on purpose in the callback" in server.log


# Caps


def test_a_connection_beyond_the_cap_is_refused_with_the_reason(start_server: StartServer) -> None:
    server = start_server(total=2)
    with server.connect() as first, server.connect() as second:
        for connection in (first, second):
            connection.sendall(get("/unread"))
            assert connection.recv(1_000).startswith(b"HTTP/1.1 200")
        [answer] = server.exchange(get("/unread"))
        assert answer.status == 503
        assert answer.headers["connection"] == "close"
        assert answer.body == b"too many connections: this host accepts 2"
    until(lambda: server.exchange(NEXT)[0].status == 200)


def test_a_stream_counts_until_its_socket_is_closed(start_server: StartServer) -> None:
    server = start_server(total=1)
    with server.connect() as stream:
        stream.sendall(get("/stream"))
        read_until(stream, b"Greenlet\n")
        assert server.exchange(NEXT)[0].status == 503
        stream.sendall(b"x")
        assert read_all(stream) == b""
    until(lambda: server.exchange(NEXT)[0].status == 200)


def test_an_address_has_a_cap_of_its_own(start_server: StartServer) -> None:
    server = start_server(per_address=1)
    with server.connect() as first:
        first.sendall(get("/unread"))
        assert first.recv(1_000)
        assert server.exchange(NEXT)[0].body == b"too many connections from your address: this host accepts 1"
        with socket.create_connection(("127.0.0.1", server.port), 60, ("127.0.0.2", 0)) as other:
            other.sendall(NEXT)
            assert parse_responses(read_all(other))[0].status == 200


def test_a_connection_beyond_the_file_limit_is_refused_with_the_reason(start_server: StartServer) -> None:
    server = start_server(files=258)
    with server.connect() as first, server.connect() as second:
        for connection in (first, second):
            connection.sendall(get("/unread"))
            assert connection.recv(1_000).startswith(b"HTTP/1.1 200")
        assert server.exchange(NEXT)[0].body == b"too many connections: this process accepts 2"


def test_a_slow_server_answers_the_newest_of_many_refused_connections(start_server: StartServer) -> None:
    server = start_server(total=1, switch_interval=1e-9)
    server.process.send_signal(signal.SIGSTOP)  # all of them wait together
    with ExitStack() as opened:
        opened.callback(server.process.send_signal, signal.SIGCONT)
        connections = [opened.enter_context(server.connect()) for _ in range(800)]
        newest = connections[-100:]
        for connection in newest:
            connection.sendall(NEXT)
        server.process.send_signal(signal.SIGCONT)
        assert [parse_responses(read_all(connection))[0].status for connection in newest] == [503] * len(newest)


def test_accepting_pauses_while_descriptors_are_exhausted(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server(files=300)
    begun = time.monotonic()

    def pauses() -> int:
        return server.log.count("no connections are accepted for 1 s: Too many open files")

    for number in (1, 2):
        release, before = tmp_path / f"release-{number}", pauses()
        with server.connect() as busy:
            busy.sendall(get(f"/exhausts?{release}", "Connection: close"))
            until(lambda: server.log.count("descriptors are exhausted") == number)  # noqa: B023
            with server.connect() as waiting:
                waiting.sendall(NEXT)
                until(lambda: pauses() > before)  # noqa: B023
                release.touch()
                assert parse_responses(read_all(waiting))[0].status == 200
            assert parse_responses(read_all(busy))[0].body == b"exhausted"
        assert pauses() <= time.monotonic() - begun + 1, "the acceptor did not pause for a second"


# Draining


def test_a_drain_waits_for_requests_but_not_for_idle_connections(start_server: StartServer) -> None:
    server = start_server()
    with server.connect() as idle, server.connect() as silent, server.connect() as busy, server.connect() as half:
        idle.sendall(get("/unread"))
        assert idle.recv(1_000)
        half.sendall(get("/", "Content-Length: 2", "Expect: 100-continue", method="POST"))
        assert half.recv(1_000).startswith(b"HTTP/1.1 100")
        busy.sendall(get("/waits"))
        server.process.terminate()
        assert read_all(idle) == read_all(silent) == b""
        half.sendall(b"ok")
        for connection in (busy, half):
            [answer] = parse_responses(read_all(connection))
            assert answer.status == 200
            assert answer.headers["connection"] == "close"
    assert server.stop() == "drained"


def test_a_drain_waits_for_streams_until_its_deadline(start_server: StartServer) -> None:
    server = start_server(drain=0.5)
    with server.connect() as stream:
        stream.sendall(get("/stream"))
        read_until(stream, b"Greenlet\n")
        assert server.stop() == "overdue"


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    both = folder / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*command, *names, "-keyout", folder / "key.pem", "-out", folder / "cert.pem"], check=True)
    both.write_text((folder / "cert.pem").read_text() + (folder / "key.pem").read_text())
    return both


def secure(server: ServerProcess, certificate: Path) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=str(certificate))
    context.suppress_ragged_eofs = False  # type: ignore[attr-defined]
    return context.wrap_socket(server.connect(), server_hostname="localhost", suppress_ragged_eofs=False)


def test_tls_serves_the_same_answers(start_server: StartServer, certificate: Path) -> None:
    server = start_server(certfile=str(certificate))
    with secure(server, certificate) as connection:
        connection.sendall(get("/pieces") + get("/big") + NEXT)
        answers = parse_responses(read_all(connection))
    assert [len(answer.body) for answer in answers[:2]] == [6, 10_000_000]
    assert len(answers) == 3


def test_tls_streams_are_handed_over(start_server: StartServer, certificate: Path) -> None:
    with secure(start_server(certfile=str(certificate)), certificate) as connection:
        connection.sendall(get("/stream"))
        data = read_until(connection, b"Greenlet\n")
        assert b"0.0 Greenlet\n" in data
        connection.sendall(b"x")
        with pytest.raises(ssl.SSLEOFError):  # the callback of this test closes without a TLS shutdown
            read_all(connection)


def test_a_peer_that_does_not_speak_tls_is_disconnected_and_blocks_no_other(
    start_server: StartServer, certificate: Path
) -> None:
    server = start_server(certfile=str(certificate), handshake=0.3)
    with server.connect() as silent, server.connect() as plain:
        plain.sendall(NEXT)
        with suppress(ConnectionResetError):
            assert b"HTTP" not in read_all(plain)
        with secure(server, certificate) as connection:
            connection.sendall(NEXT)
            assert parse_responses(read_all(connection))[0].status == 200
        assert read_all(silent) == b""
