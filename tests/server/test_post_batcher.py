"""Posts that repeat a known head are answered in batches, with the answers that they would get alone."""

from __future__ import annotations

import json
import select
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from support.proxy import Proxy
from support.raw_http import ServerProcess, parse_responses, read_all
from support.stack import Stack
from support.waiting import DEADLINE, until

StartServer = Callable[..., ServerProcess]


def post(body: bytes, *fields: str, target: str = "/fast") -> bytes:
    lines = [f"POST {target} HTTP/1.1", "Host: a", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *fields, "", ""]).encode() + body


class Client:
    """One connection, and the bytes received after the last answer."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection = connection
        self._data = b""

    def ask(self, request: bytes) -> bytes:
        """Return the body of the answer to a request that must be accepted."""
        self.connection.sendall(request)
        status, body = self.answer()
        assert status == 202, body
        return body

    def answer(self) -> tuple[int, bytes]:
        pieces, head, length = [self._data], b"", -1
        while length < 0 or sum(map(len, pieces)) < len(head) + 4 + length:
            if length < 0:
                head, found, _ = b"".join(pieces).partition(b"\r\n\r\n")
                if found:
                    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                    continue
            piece = self.connection.recv(65_536)
            assert piece, pieces
            pieces.append(piece)
        data, end = b"".join(pieces), len(head) + 4 + length
        self._data = data[end:]
        return int(data.split()[1]), data[len(head) + 4 : end]

    def rest(self) -> bytes:
        """Return all bytes until the end."""
        return self._data + read_all(self.connection)

    def learn(self, body: bytes = b'{"n":0}') -> Client:
        """Let the batcher learn the head of such a post."""
        for _ in range(2):
            self.ask(post(body))
        return self


@pytest.fixture
def known(connect: Callable[[], socket.socket]) -> Client:
    """A connection whose head for ``{"n":1}`` the batcher knows."""
    return Client(connect()).learn()


def test_a_repeated_post_is_answered_by_the_batcher(known: Client) -> None:
    for number in range(1, 10):
        body = b'{"n":%d}' % number
        assert known.ask(post(body)) == b"batch " + body


@pytest.mark.parametrize("field", ["User-Agent: another", "X-Unheard-Of: another", "Connection: Keep-Alive"])
def test_another_head_is_not_batched(known: Client, field: str) -> None:
    assert known.ask(post(b'{"n":1}', field)) == b'alone {"n":1}'
    assert known.ask(post(b'{"n":1}')) == b'batch {"n":1}'


def test_topic_and_length_may_differ_from_those_of_the_known_head(known: Client) -> None:
    for number, body in enumerate([b'{"n":10}', b'{"n":2}', b'{"n":"a longer one"}', b"{}"]):
        assert known.ask(post(body, target=f"/fast-{number}")) == b"batch " + body


def test_another_target_is_not_batched(known: Client) -> None:
    """The head of a request that the fast path does not take has the fields of one that it takes."""
    known.connection.sendall(post(b'{"n":1}', target="/echo"))
    assert known.answer() != (202, b'batch {"n":1}')
    assert known.ask(post(b'{"n":1}')) == b'batch {"n":1}'


@pytest.mark.parametrize(
    "field",
    [
        "X-Content-Length: 3",
        "Content-Length: 3",
        "content-length: 7",
        "Content-Length : 3",
        "Transfer-Encoding: chunked",
    ],
)
@pytest.mark.parametrize("before", [True, False])
def test_a_second_length_is_never_taken_for_the_length(known: Client, field: str, before: bool) -> None:
    """Bodies whose end another parser would see elsewhere must not become requests."""
    request = post(b'{"n":1}', field)
    if before:
        request = request.replace(f"\r\n{field}".encode(), b"").replace(b"Host: a", f"Host: a\r\n{field}".encode())
    known.connection.sendall(request)
    status, body = known.answer()
    assert body == b'alone {"n":1}' if field.startswith("X-") else status == 400


def test_posts_to_many_topics_that_arrive_together_get_their_own_answers(connect: Callable[[], socket.socket]) -> None:
    clients = [Client(connect()).learn() for _ in range(50)]
    for _ in range(5):
        for number, client in enumerate(clients):
            client.connection.sendall(post(b'{"n":%d}' % number, target=f"/fast-{number % 40}"))
        assert [client.answer() for client in clients] == [(202, b'batch {"n":%d}' % n) for n in range(50)]


def test_a_topic_that_cannot_be_batched_leaves_the_others_in_their_batch(connect: Callable[[], socket.socket]) -> None:
    clients = [Client(connect()).learn(b'{"n":"fine!"}') for _ in range(3)]
    bodies = [b'{"n":"fine1"}', b'{"n":"apart"}', b'{"n":"fine2"}']
    for number, (client, body) in enumerate(zip(clients, bodies, strict=True)):
        client.connection.sendall(post(body, target=f"/fast-{number}"))
    expected = [b'batch {"n":"fine1"}', b'alone {"n":"apart"}', b'batch {"n":"fine2"}']
    assert [client.answer() for client in clients] == [(202, body) for body in expected]


def test_a_head_in_pieces_is_not_batched(known: Client, server: ServerProcess) -> None:
    request = post(b'{"n":1}')
    for cut in (1, 30, len(request) - 8):
        known.connection.sendall(request[:cut])
        server.catch_up()
        assert known.ask(request[cut:]) == b'alone {"n":1}'
        assert known.ask(request) == b'batch {"n":1}'


def test_the_batcher_waits_for_a_body_after_its_head(known: Client, server: ServerProcess) -> None:
    """Python's HTTP client sends head and body in two pieces."""
    request = post(b'{"n":1}')
    for cut in (len(request) - 7, len(request) - 1):
        known.connection.sendall(request[:cut])
        server.catch_up()
        assert known.ask(request[cut:]) == b'batch {"n":1}'
    known.connection.sendall(request[:-7])
    for byte in request[-7:-1]:
        known.connection.sendall(bytes([byte]))
        server.catch_up()
    assert known.ask(request[-1:]) == b'batch {"n":1}'
    known.connection.sendall(request + request[:-3])
    assert known.answer()[1] == b'batch {"n":1}'
    assert known.ask(request[-3:]) == b'batch {"n":1}'


@pytest.mark.parametrize("size", [8_000, 8_192, 200_000])
def test_a_large_body_is_not_batched(connect: Callable[[], socket.socket], server: ServerProcess, size: int) -> None:
    body = b'{"n":"%b"}' % (b"x" * size)
    client = Client(connect()).learn(body)
    client.connection.sendall(post(body)[:-5])
    server.catch_up()
    assert client.ask(body[-5:]) == (b"batch " if size == 8_000 else b"alone ") + body


@pytest.mark.parametrize("begun", [7, 1])
def test_a_missing_body_is_ended_at_its_deadline(start_server: StartServer, begun: int) -> None:
    server = start_server(head=0.3, body=0.3)
    with server.connect() as connection:
        client = Client(connection).learn()
        connection.sendall(post(b'{"n":1}')[:-begun])
        assert client.answer()[0] == 408
        assert client.rest() == b""


def test_a_body_in_single_bytes_gets_no_more_time(start_server: StartServer) -> None:
    server = start_server(head=0.5, body=0.5)
    body = b'{"n":"%b"}' % (b"x" * 1_000)
    with server.connect() as connection:
        client = Client(connection).learn(body)
        connection.sendall(post(body)[:-1_000])
        sent = 0
        while not server.has_answered(connection):
            connection.sendall(b"x")
            sent += 1
            assert sent < 900
            threading.Event().wait(0.02)
        assert client.answer()[0] == 408


def test_an_end_before_the_body_is_not_a_request(start_server: StartServer) -> None:
    server = start_server()
    with server.connect() as connection:
        client = Client(connection).learn()
        connection.sendall(post(b'{"n":1}')[:-3])
        server.catch_up()
        connection.shutdown(socket.SHUT_WR)
        assert b"batch" not in client.rest()
    assert server.stop() == "drained"


def test_a_drain_waits_for_a_body_under_way(start_server: StartServer) -> None:
    server = start_server()
    with server.connect() as connection:
        client = Client(connection).learn()
        connection.sendall(post(b'{"n":1}')[:-3])
        server.catch_up()
        server.process.terminate()
        until(lambda: not server.accepts())
        connection.sendall(post(b'{"n":1}')[-3:])
        [answer] = parse_responses(client.rest())
    assert answer.body.endswith(b' {"n":1}')
    assert answer.headers["connection"] == "close"
    assert server.stop() == "drained"


def test_pipelined_posts_are_answered_in_order(known: Client) -> None:
    known.connection.sendall(b"".join(post(b'{"n":%d}' % number) for number in range(10)))
    known.connection.shutdown(socket.SHUT_WR)
    bodies = [answer.body for answer in parse_responses(known.rest())]
    assert [body.partition(b" ")[2] for body in bodies] == [b'{"n":%d}' % number for number in range(10)]


@pytest.mark.parametrize("size", [1, 50, 107, 1_000, 100_000])
def test_posts_in_pieces_of_any_size_are_answered_in_order(known: Client, size: int) -> None:
    """A piece may hold whole requests, the beginning of one, or a head without its body."""
    bodies = [b'{"n":%d}' % (number % 10) if number % 7 else b'{"m":"%02d"}' % (number % 100) for number in range(300)]
    data = b"".join(map(post, bodies))
    for start in range(0, len(data), size):
        known.connection.sendall(data[start : start + size])
        if start % 11 == 0:
            threading.Event().wait(0.001)
    answers = [known.answer()[1].partition(b" ") for _ in bodies]
    assert [body for _, _, body in answers] == bodies
    assert {how for how, _, _ in answers} <= {b"alone", b"batch"}


def test_pipelined_posts_are_batched(known: Client) -> None:
    known.connection.sendall(b"".join(post(b'{"n":%d}' % number) for number in range(10)))
    assert [known.answer()[1] for _ in range(10)] == [b'batch {"n":%d}' % number for number in range(10)]


def test_another_request_after_batched_posts_is_answered(known: Client) -> None:
    other = b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n"
    known.connection.sendall(post(b'{"n":1}') * 2 + other + post(b'{"n":2}'))
    assert [known.answer()[0] for _ in range(4)] == [202, 202, 200, 202]
    known.connection.sendall(post(b'{"n":1}') + b"NO HTTP\r\n\r\n")
    assert [known.answer()[0] for _ in range(2)] == [202, 400]


def test_an_end_after_a_batched_post_closes_the_connection(known: Client) -> None:
    known.connection.sendall(post(b'{"n":1}') + post(b'{"n":2}')[:-3])
    known.connection.shutdown(socket.SHUT_WR)
    assert known.answer()[1] == b'batch {"n":1}'
    assert known.rest() == b""


def test_an_unfinished_head_after_a_batched_post_is_ended_at_its_deadline(start_server: StartServer) -> None:
    with start_server(head=0.3).connect() as connection:
        client = Client(connection).learn()
        connection.sendall(post(b'{"n":1}') + post(b'{"n":2}')[:40])
        assert client.answer()[1] == b'batch {"n":1}'
        assert client.answer()[0] == 408
        assert client.rest() == b""


def test_a_head_that_differs_after_its_first_part_gets_no_more_time(start_server: StartServer) -> None:
    """A head begins, then a second connection without a request, then the head goes on. Their deadlines come in the
    order of their beginnings. The server's idle deadline passes between these steps."""
    server = start_server(head=6, idle=1.2)

    def wait_idle() -> None:
        with server.connect() as idle:
            assert Client(idle).ask(post(b"{}"))
            assert read_all(idle) == b""

    with server.connect() as connection:
        client = Client(connection).learn()
        connection.sendall(post(b'{"n":1}') + post(b'{"n":2}')[:40])
        assert client.answer()[1] == b'batch {"n":1}'
        wait_idle()
        with server.connect() as later:
            wait_idle()
            connection.sendall(b"X-Another: field\r\n")
            assert client.answer()[0] == 408
            assert not select.select([later], [], [], 0)[0]
            assert read_all(later) == b""


def test_posts_sent_before_an_answer_are_answered_after_it(known: Client, server: ServerProcess) -> None:
    known.learn(b'{"n":"slow"}')
    known.connection.sendall(post(b'{"n":"slow"}'))
    server.catch_up()
    for number in range(3):
        known.connection.sendall(post(b'{"n":%d}' % number))
    known.connection.shutdown(socket.SHUT_WR)
    bodies = [answer.body for answer in parse_responses(known.rest())]
    assert bodies[0] == b'batch {"n":"slow"}'
    assert [body.partition(b" ")[2] for body in bodies[1:]] == [b'{"n":%d}' % number for number in range(3)]


def test_posts_that_cannot_be_batched_are_answered_alone(connect: Callable[[], socket.socket]) -> None:
    clients = [Client(connect()).learn(b'{"n":"fine!"}') for _ in range(4)]
    bodies = [b'{"n":"fine1"}', b'{"n":"apart"}', b'{"n":"fine2"}', b'{"n":"fine3"}']
    for client, body in zip(clients, bodies, strict=True):
        client.connection.sendall(post(body))
    for client, body in zip(clients, bodies, strict=True):
        status, answer = client.answer()
        assert status == 202
        assert answer in ({b"alone " + body} if b"apart" in body else {b"alone " + body, b"batch " + body})


def test_an_answer_larger_than_the_socket_buffer_is_sent_whole(start_server: StartServer) -> None:
    server = start_server(idle=1)
    with server.connect() as connection:
        client = Client(connection).learn(b'{"n":"large"}')
        for number in range(3):
            connection.sendall(post(b'{"n":"large"}'))
            server.catch_up()
            if number == 1:
                connection.sendall(post(b'{"n":"small"}'))  # meanwhile
            _, answer = client.answer()
            assert answer.startswith(b'batch {"n":"large"}')
            assert len(answer) > 10_000_000
            if number == 1:
                assert client.answer()[1].endswith(b' {"n":"small"}')
        assert client.rest() == b"", "the connection is idle again, so it is closed"


def test_an_idle_connection_after_batched_posts_is_closed(start_server: StartServer) -> None:
    with start_server(idle=1).connect() as connection:
        client = Client(connection).learn()
        for number in range(5):
            threading.Event().wait(0.25)  # longer in total than the idle deadline
            assert client.ask(post(b'{"n":%d}' % number)) == b'batch {"n":%d}' % number
        assert client.rest() == b""


def test_a_drain_waits_for_the_answer(start_server: StartServer) -> None:
    server = start_server()
    with server.connect() as connection:
        Client(connection).learn(b'{"n":"slow"}')
        connection.sendall(post(b'{"n":"slow"}'))
        server.catch_up()
        server.process.terminate()
        [answer] = parse_responses(read_all(connection))
    assert answer.body == b'batch {"n":"slow"}'
    assert answer.headers["connection"] == "close"
    assert server.stop() == "drained"


@pytest.mark.parametrize("more", [b"", post(b'{"n":"slow"}') * 3, post(b'{"n":"slow"}')[:30], b"GET / HTTP/1.1\r\n"])
@pytest.mark.parametrize("apart", [False, True])
def test_no_answer_follows_the_last_one(start_server: StartServer, more: bytes, apart: bool) -> None:
    """After ``Connection: close`` a client takes later requests for unanswered and repeats them."""
    server = start_server()
    with server.connect() as connection:
        Client(connection).learn(b'{"n":"slow"}')
        connection.sendall(post(b'{"n":"slow"}') + (b"" if apart else more))
        server.catch_up()
        if apart and more:
            connection.sendall(more)
        server.process.terminate()
        answers = parse_responses(read_all(connection))
    answered = 4 if more.count(b"slow") == 3 and not apart else 1
    assert [answer.headers.get("connection") for answer in answers] == [*[None] * (answered - 1), "close"]
    assert server.stop() == "drained"


@pytest.mark.parametrize("more", [b"GET /", b"GET / HTTP/1.1\r\nHo", post(b'{"n":"long one"}')[:-9]])
def test_a_request_begun_after_a_batched_post_is_ended_at_its_deadline(start_server: StartServer, more: bytes) -> None:
    with start_server(head=0.3, body=0.3).connect() as connection:
        client = Client(connection).learn()
        connection.sendall(post(b'{"n":1}') + more)
        assert client.answer()[1] == b'batch {"n":1}'
        assert client.answer()[0] == 408
        assert client.rest() == b""


def test_answers_match_their_posts_while_more_arrive(start_server: StartServer) -> None:
    """Two topics on one connection, the first slow; the last post arrives together with its answer."""
    server = start_server()
    slow, next_, last = post(b'{"n":"slow"}'), post(b'{"n":2}', target="/fast2"), post(b'{"n":3}', target="/fast2")

    def run(number: int) -> list[bytes]:
        with server.connect() as connection:
            client = Client(connection).learn(b'{"n":"slow"}')
            for _ in range(2):
                client.ask(next_)
            assert client.ask(slow) == b'batch {"n":"slow"}'
            connection.sendall(slow + next_)
            threading.Event().wait(0.495 + number / 5_000)
            connection.sendall(last)
            found = [client.answer()[1].partition(b" ")[2] for _ in range(3)]
            return [*found, client.ask(slow).partition(b" ")[2]]

    with ThreadPoolExecutor(50) as pool:
        for found in pool.map(run, range(50)):
            assert found == [b'{"n":"slow"}', b'{"n":2}', b'{"n":3}', b'{"n":"slow"}']


def test_an_exception_answers_every_post_of_the_batch_with_500(start_server: StartServer) -> None:
    server = start_server()
    with server.connect() as one, server.connect() as other:
        clients = [Client(connection).learn(b'{"n":"fine!"}') for connection in (one, other)]
        for client, body in zip(clients, (b'{"n":"raise"}', b'{"n":"fine!"}'), strict=True):
            client.connection.sendall(post(body))
        assert clients[0].answer()[0] == 500
        assert clients[0].rest() == b""
        assert clients[1].answer()[0] in (202, 500)
    assert server.stop() == "drained"
    assert "on purpose in the fast path" in server.log


def test_a_client_that_leaves_before_the_answer_holds_nothing(start_server: StartServer) -> None:
    server = start_server()
    for _ in range(5):
        with server.connect() as connection:
            Client(connection).learn(b'{"n":"slow"}')
            connection.sendall(post(b'{"n":"slow"}'))
    with server.connect() as connection:
        Client(connection).learn(b'{"n":"slow"}').ask(post(b'{"n":"slow"}'))  # is answered after the post before it
    assert server.stop() == "drained"
    assert "Traceback" not in server.log


# With events stored in Redis


def learn(server: Stack, topic: str) -> None:
    """Let the server learn the shape of a topic's events."""
    for start in range(0, 128, 64):
        events = [{"key": "a", "n": -number} for number in range(start + 1, start + 65)]
        assert server.post(topic, json.dumps(events).encode()).status == 202


def request(server: Stack, topic: str, body: bytes) -> bytes:
    path = f"/v1/topics/{topic}/events"
    return post(body, target=path).replace(b"Host: a", b"Host: 127.0.0.1:%d" % server.port)


def posted(server: Stack, topic: str, bodies: list[list[bytes]]) -> list[list[tuple[int, dict[str, Any]]]]:
    """Post each list on a connection of its own, one post after the other; return status and answer of each."""

    def run(own: list[bytes]) -> list[tuple[int, dict[str, Any]]]:
        found = []
        with socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE) as connection:
            client = Client(connection)
            for body in own:
                connection.sendall(request(server, topic, body))
                status, answer = client.answer()
                found.append((status, json.loads(answer)))
        return found

    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(run, bodies))


def test_every_post_is_stored_once_at_its_reported_offset(shared_server: Stack, topic: str) -> None:
    learn(shared_server, topic)
    bodies = [[b'{"key":"k%02d","n":%04d}' % (number, 1_000 + at) for at in range(100)] for number in range(16)]
    answers = posted(shared_server, topic, bodies)
    stored = {}
    for event in history(shared_server, topic):
        stored[event["$offset"]] = (event["key"], event["n"])
    for sent, got in zip(bodies, answers, strict=True):
        for body, (status, answer) in zip(sent, got, strict=True):
            event = json.loads(body)
            assert (status, answer["accepted"], answer["first_offset"]) == (202, 1, answer["last_offset"])
            assert stored.pop(answer["first_offset"]) == (event["key"], event["n"])
    assert all(n < 0 for _, n in stored.values())
    assert len(stored) == 128


def history(server: Stack, topic: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after = ""
    while True:
        page = server.get(f"/v1/topics/{topic}/events?limit=1000{after}").json()
        found += page["events"]
        if not page["next"]:
            return found
        after = f"&after={page['next']}"


def test_an_invalid_post_is_refused_alone(shared_server: Stack, topic: str) -> None:
    learn(shared_server, topic)
    good, bad = [b'{"key":"a","n":%d}' % number for number in range(10)], b'{"key":"a","n":}'
    bodies = [[*good, bad, *good] for _ in range(8)]
    for got in posted(shared_server, topic, bodies):
        assert [status for status, _ in got] == [202] * 10 + [400] + [202] * 10
        assert got[10][1]["type"] == "urn:pushsvc:problem:invalid-events"


def test_equal_ids_of_several_producers_are_stored_once(shared_server: Stack, topic: str) -> None:
    events = [{"id": f"first-{number}", "n": 1} for number in range(128)]
    for start in (0, 64):
        assert shared_server.post(topic, json.dumps(events[start : start + 64]).encode()).status == 202
    bodies = [[b'{"id":"id-%03d","n":1}' % at for at in range(100)] for _ in range(8)]
    answers = posted(shared_server, topic, bodies)
    offsets = [[answer["first_offset"] for _, answer in got] for got in answers]
    assert all(one == offsets[0] for one in offsets)
    assert sum(answer["accepted"] for got in answers for _, answer in got) == 100
    assert len(history(shared_server, topic)) == 228


def test_without_redis_every_post_is_answered_503(prefix: str, tmp_path: Path, proxy: Proxy) -> None:
    with Stack(proxy.url, prefix, tmp_path) as stack:
        stack.start_web()
        learn(stack, "t")
        answers = posted(stack, "t", [[b'{"key":"a","n":1}'] * 5 for _ in range(4)])
        assert {status for got in answers for status, _ in got} == {202}
        proxy.upward = lambda data: None
        answers = posted(stack, "t", [[b'{"key":"a","n":1}'] * 5 for _ in range(4)])
        assert {status for got in answers for status, _ in got} == {503}
        proxy.upward = lambda data: data
        until(lambda: stack.post("t", b'{"key":"a","n":1}').status == 202)
        answers = posted(stack, "t", [[b'{"key":"a","n":1}'] * 5 for _ in range(4)])
        assert {status for got in answers for status, _ in got} == {202}
