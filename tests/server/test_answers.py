"""What apps answer (PEP 3333), as bytes; deadlines; caps; the end; streams handed over; TLS."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from support.raw import Answered, Site, read_all, read_until, split_answers
from support.waiting import until

Sites = Callable[..., Site]


def get(target: str, *fields: str, version: str = "1.1", method: str = "GET") -> bytes:
    lines = [f"{method} {target} HTTP/{version}", "Host: localhost", *fields]
    return "\r\n".join([*lines, "", ""]).encode()


NEXT = get("/next", "Connection: close")


def ask(site: Site, target: str, method: str = "GET") -> tuple[Answered, list[Answered]]:
    """Return the answer, and those to a next request on the same connection."""
    first, *rest = site.exchange(get(target, method=method) + NEXT, method)
    return first, rest


def test_pieces_without_a_length_are_chunked(site: Site) -> None:
    data = site.exchange(get("/pieces") + NEXT)
    assert data[0].headers["transfer-encoding"] == "chunked"
    assert (data[0].body, data[0].complete, data[1].status) == (b"onetwo", True, 200)


def test_http_10_gets_no_chunks(site: Site) -> None:
    [answer] = site.exchange(get("/pieces", "Connection: keep-alive", version="1.0"))
    assert answer.body == b"onetwo"
    assert "transfer-encoding" not in answer.headers


def test_a_list_of_one_gets_a_length(site: Site) -> None:
    answer, rest = ask(site, "/closed")
    assert answer.headers["content-length"] == str(len(answer.body))
    assert rest


@pytest.mark.parametrize("target", ["/pieces", "/closed", "/unread", "/raises"])
def test_head_has_no_body(site: Site, target: str) -> None:
    answer, rest = ask(site, target, "HEAD")
    assert answer.body == b""
    assert len(rest) == (target != "/raises")


def test_204_has_neither_body_nor_length(site: Site) -> None:
    answer, rest = ask(site, "/nothing")
    assert answer.status == 204
    assert "content-length" not in answer.headers
    assert rest


def test_write_comes_before_what_is_returned(site: Site) -> None:
    assert ask(site, "/written")[0].body == b"written returned"


def test_iterables_are_closed_also_for_head_and_for_who_goes_away(site: Site) -> None:
    def closed() -> int:
        return int(ask(site, "/closed")[0].body)

    before = closed()
    ask(site, "/closes")
    ask(site, "/closes", "HEAD")
    assert closed() == before + 2


def test_input_by_lines(site: Site) -> None:
    body = b"one\ntwo\nthree\nfour\n"
    expected = repr([b"one\n", b"two", b"\nt", b"hree\n", b"four\n"]).encode()
    head = b"POST /lines HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    sized = head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    for request in (sized, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks):
        for step in (0, 1):
            [answer] = site.exchange(request, step=step)
            assert answer.body == expected


def test_an_exception_is_a_500_that_reaches_nobody_else(site: Site) -> None:
    with site.connect() as other:
        other.sendall(get("/waits", "Connection: close"))
        answer, rest = ask(site, "/raises")
        assert answer.status == 500
        assert json.loads(answer.body)["type"] == "urn:pushsvc:problem:internal"
        assert b"asked for" not in answer.body
        assert rest == []
        assert split_answers(read_all(other))[0].body == b"waited"
    assert "ValueError: asked for\n" in site.log


def test_an_exception_behind_the_head_cuts_the_body(site: Site) -> None:
    answer, rest = ask(site, "/raises-late")
    assert (answer.status, answer.body, answer.complete, rest) == (200, b"begun", False, [])


def test_exc_info_replaces_a_head_that_was_not_sent(site: Site) -> None:
    answer, rest = ask(site, "/recovers")
    assert (answer.status, answer.body) == (503, b"sorry")
    assert rest


@pytest.mark.parametrize("target", ["/splits", "/silent"])
def test_what_the_app_does_wrong_is_a_500(site: Site, target: str) -> None:
    answer, _ = ask(site, target)
    assert answer.status == 500
    assert "x-injected" not in answer.headers


def test_a_body_longer_or_shorter_than_its_length_ends_the_connection(site: Site) -> None:
    answer, rest = ask(site, "/long")
    assert (answer.body, rest) == (b"four", [])
    answer, rest = ask(site, "/short")
    assert (answer.body, answer.complete, rest) == (b"less", False, [])


def test_a_large_answer_to_a_slow_reader_is_whole(site: Site) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        connection.settimeout(60)
        connection.connect(("127.0.0.1", site.port))
        connection.sendall(get("/big", "Connection: close"))
        [answer] = split_answers(read_all(connection))
    assert len(answer.body) == 10_000_000


def test_an_answer_arrives_though_the_body_was_not_read(site: Site) -> None:
    head = b"POST /unread HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20000000\r\n\r\n"
    [answer] = site.exchange(head + b"x" * 20_000_000)
    assert answer.body == b"unread"
    assert answer.headers["connection"] == "close"


def test_who_pipelines_without_end_starves_nobody(site: Site) -> None:
    with site.connect() as greedy:
        greedy.setblocking(False)
        requests, sent = get("/next") * 2_000, 0
        for _ in range(20):
            try:
                sent += greedy.send(requests)
            except BlockingIOError:
                break
        assert ask(site, "/unread")[0].status == 200
    assert sent


def test_who_sends_tiny_chunks_without_end_starves_nobody(site: Site) -> None:
    answered, chunks = threading.Event(), b"1\r\nx\r\n" * 50_000
    with site.connect() as greedy:
        greedy.sendall(get("/", "Transfer-Encoding: chunked", method="POST") + chunks)

        def send() -> None:
            with suppress(OSError):
                while not answered.is_set():
                    greedy.sendall(chunks)

        sending = threading.Thread(target=send, daemon=True)
        sending.start()
        assert ask(site, "/unread")[0].status == 200
        answered.set()
    sending.join()


# The lane


def lane(body: bytes, *fields: str, version: str = "1.1") -> bytes:
    return get("/lane", f"Content-Length: {len(body)}", *fields, version=version, method="POST") + body


@pytest.mark.parametrize("step", [0, 1])
def test_the_lane_and_the_app_answer_in_order(site: Site, step: int) -> None:
    answers = site.exchange(lane(b"one") + get("/unread") + lane(b"") + lane(b"two", "Connection: close"), step=step)
    assert [answer.body for answer in answers] == [b"lane one", b"unread", b"lane ", b"lane two"]
    assert [answer.headers.get("connection") for answer in answers] == [None, None, None, "close"]


def test_the_lane_keeps_to_the_connection_of_http_10(site: Site) -> None:
    first, second = site.exchange(lane(b"a", "Connection: keep-alive", version="1.0") + lane(b"b", version="1.0"))
    assert [first.headers["connection"], second.headers["connection"]] == ["keep-alive", "close"]


def test_an_exception_in_the_lane_is_a_500(site: Site) -> None:
    answer, rest = site.exchange(lane(b"raise") + NEXT)[0], site.exchange(NEXT)
    assert (answer.status, answer.headers["connection"]) == (500, "close")
    assert b"asked for" not in answer.body
    assert "ValueError: asked for in the lane\n" in site.log
    assert rest[0].status == 200


# Deadlines: nothing waits for longer than they say, and nothing here measures how long that was.


def test_a_head_that_drips_is_ended(sites: Sites) -> None:
    site = sites(head=0.2)
    with site.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        [answer] = split_answers(read_all(connection))
    assert answer.status == 408
    with site.connect() as connection:
        assert read_all(connection) == b""
    assert site.exchange(NEXT)[0].status == 200


def test_an_idle_connection_is_ended_without_a_word(sites: Sites) -> None:
    with sites(idle=0.2).connect() as connection:
        connection.sendall(get("/next"))
        [answer] = split_answers(read_all(connection))
    assert answer.status == 200


def test_a_body_that_drips_is_ended(sites: Sites) -> None:
    with sites(body=0.2, rate=1_000_000).connect() as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe")
        [answer] = split_answers(read_all(connection))
    assert answer.status == 408


def test_a_body_that_keeps_its_pace_may_take_longer(sites: Sites) -> None:
    site = sites(body=0.3, rate=1)
    with site.connect() as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 60\r\nConnection: close\r\n\r\n" + b"x" * 50)
        ask(site, "/waits")
        connection.sendall(b"x" * 10)
        [answer] = split_answers(read_all(connection))
    assert json.loads(answer.body)["body"] == "x" * 60


# Streams handed over


def test_a_stream_is_handed_over_behind_its_head(connect: Any) -> None:
    connection = connect()
    connection.sendall(get("/stream") + NEXT)
    [answer] = split_answers(read_until(connection, b"Greenlet\n"))
    assert answer.body == b"socket 0.0 Greenlet\n"
    assert answer.headers["connection"] == "close"
    assert answer.headers["content-type"] == "text/event-stream"
    assert "content-length" not in answer.headers
    assert "transfer-encoding" not in answer.headers
    connection.sendall(b"x")
    assert read_all(connection) == b""


@pytest.mark.parametrize(("target", "method"), [("/stream?404", "GET"), ("/stream?body", "GET"), ("/stream", "HEAD")])
def test_only_a_stream_is_handed_over(site: Site, target: str, method: str) -> None:
    answer, rest = ask(site, target, method)
    assert answer.status in (200, 404)
    assert rest


def test_a_taker_that_fails_ends_the_connection(site: Site) -> None:
    answer, rest = ask(site, "/stream?fail")
    assert (answer.body, rest) == (b"half", [])
    assert "asked for by the taker" in site.log


# Caps


def test_connections_beyond_a_cap_are_told_so(sites: Sites) -> None:
    site = sites(total=2)
    with site.connect() as first, site.connect() as second:
        for connection in (first, second):
            connection.sendall(get("/unread"))
            assert connection.recv(1_000).startswith(b"HTTP/1.1 200")
        [answer] = site.exchange(get("/unread"))
        assert answer.status == 503
        assert answer.headers["connection"] == "close"
        assert answer.body == b"this host holds 2 connections, the most it takes"
    until(lambda: site.exchange(NEXT)[0].status == 200)


def test_a_stream_counts_until_its_taker_closes_it(sites: Sites) -> None:
    site = sites(total=1)
    with site.connect() as stream:
        stream.sendall(get("/stream"))
        read_until(stream, b"Greenlet\n")
        assert site.exchange(NEXT)[0].status == 503
        stream.sendall(b"x")
        assert read_all(stream) == b""
    until(lambda: site.exchange(NEXT)[0].status == 200)


def test_an_address_has_a_cap_of_its_own(sites: Sites) -> None:
    site = sites(per_address=1)
    with site.connect() as first:
        first.sendall(get("/unread"))
        assert first.recv(1_000)
        assert site.exchange(NEXT)[0].body == b"your address holds 1 connections, the most one may have"
        with socket.create_connection(("127.0.0.1", site.port), 60, ("127.0.0.2", 0)) as other:
            other.sendall(NEXT)
            assert split_answers(read_all(other))[0].status == 200


def test_beyond_the_file_limit_too(sites: Sites) -> None:
    site = sites(files=258)
    with site.connect() as first, site.connect() as second:
        for connection in (first, second):
            connection.sendall(get("/unread"))
            assert connection.recv(1_000).startswith(b"HTTP/1.1 200")
        assert site.exchange(NEXT)[0].body == b"this server holds 2 connections, the most it can"


def test_without_descriptors_it_pauses_and_goes_on(sites: Sites) -> None:
    site = sites(files=300)
    begun = time.monotonic()
    for times in (1, 2):
        with site.connect() as busy:
            busy.sendall(get("/exhausts", "Connection: close"))
            assert site.exchange(NEXT)[0].status == 200
            assert split_answers(read_all(busy))[0].body == b"exhausted"
        pauses = site.log.count("no connections are accepted for 1 s: Too many open files")
        assert times <= pauses <= time.monotonic() - begun + 1, "not one a second, but one per turn of the loop"


# The end


def test_the_end_waits_for_requests_and_not_for_idle_connections(sites: Sites) -> None:
    site = sites()
    with site.connect() as idle, site.connect() as silent, site.connect() as busy, site.connect() as half:
        idle.sendall(get("/unread"))
        assert idle.recv(1_000)
        half.sendall(get("/", "Content-Length: 2", "Expect: 100-continue", method="POST"))
        assert half.recv(1_000).startswith(b"HTTP/1.1 100")
        busy.sendall(get("/waits"))
        site.process.terminate()
        assert read_all(idle) == read_all(silent) == b""
        half.sendall(b"ok")
        for connection in (busy, half):
            [answer] = split_answers(read_all(connection))
            assert answer.status == 200
            assert answer.headers["connection"] == "close"
    assert site.stop() == "drained"


def test_the_end_waits_for_streams_as_long_as_it_may(sites: Sites) -> None:
    site = sites(drain=0.5)
    with site.connect() as stream:
        stream.sendall(get("/stream"))
        read_until(stream, b"Greenlet\n")
        assert site.stop() == "overdue"


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


def secure(site: Site, certificate: Path) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=str(certificate))
    context.suppress_ragged_eofs = False  # type: ignore[attr-defined]
    return context.wrap_socket(site.connect(), server_hostname="localhost", suppress_ragged_eofs=False)


def test_tls_serves_the_same(sites: Sites, certificate: Path) -> None:
    site = sites(certfile=str(certificate))
    with secure(site, certificate) as connection:
        connection.sendall(get("/pieces") + get("/big") + NEXT)
        answers = split_answers(read_all(connection))
    assert [len(answer.body) for answer in answers[:2]] == [6, 10_000_000]
    assert len(answers) == 3


def test_tls_hands_its_streams_over(sites: Sites, certificate: Path) -> None:
    with secure(sites(certfile=str(certificate)), certificate) as connection:
        connection.sendall(get("/stream"))
        data = read_until(connection, b"Greenlet\n")
        assert b"0.0 Greenlet\n" in data
        connection.sendall(b"x")
        with pytest.raises(ssl.SSLEOFError):  # the taker of this test closes without a word
            read_all(connection)


def test_who_does_not_speak_tls_is_let_go_and_holds_nobody_up(sites: Sites, certificate: Path) -> None:
    site = sites(certfile=str(certificate), handshake=0.3)
    with site.connect() as silent, site.connect() as plain:
        plain.sendall(NEXT)
        with suppress(ConnectionResetError):
            assert b"HTTP" not in read_all(plain)
        with secure(site, certificate) as connection:
            connection.sendall(NEXT)
            assert split_answers(read_all(connection))[0].status == 200
        assert read_all(silent) == b""
