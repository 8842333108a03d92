"""Posts that look like the one before are answered together, and nobody can tell but by the time it takes."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from support.proxy import Proxy
from support.raw import Site, read_all, split_answers
from support.stack import Stack
from support.waiting import until

Sites = Callable[..., Site]


def post(body: bytes, *fields: str, target: str = "/lane") -> bytes:
    lines = [f"POST {target} HTTP/1.1", "Host: a", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *fields, "", ""]).encode() + body


class Client:
    """One connection, and what came on it that was not looked at yet."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection = connection
        self._data = b""

    def ask(self, request: bytes) -> bytes:
        """Return the body of the answer to a request, which is accepted."""
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
        """Return what comes until the end."""
        return self._data + read_all(self.connection)

    def learn(self, body: bytes = b'{"n":0}') -> Client:
        """Let posts like this one be known."""
        for _ in range(2):
            self.ask(post(body))
        return self


@pytest.fixture
def known(connect: Callable[[], socket.socket]) -> Client:
    """A connection whose next ``{"n":1}`` looks like those before."""
    return Client(connect()).learn()


def test_what_looks_like_the_post_before_is_answered_together(known: Client) -> None:
    for number in range(1, 10):
        body = b'{"n":%d}' % number
        assert known.ask(post(body)) == b"together " + body


@pytest.mark.parametrize("field", ["User-Agent: another", "X-Unheard-Of: another", "Connection: Keep-Alive"])
def test_another_head_goes_its_own_way(known: Client, field: str) -> None:
    assert known.ask(post(b'{"n":1}', field)) == b'lane {"n":1}'
    assert known.ask(post(b'{"n":1}')) == b'together {"n":1}'


def test_a_head_that_comes_in_pieces_goes_its_own_way(known: Client, site: Site) -> None:
    request = post(b'{"n":1}')
    for cut in (1, 30, len(request) - 8):
        known.connection.sendall(request[:cut])
        site.catch_up()
        assert known.ask(request[cut:]) == b'lane {"n":1}'
        assert known.ask(request) == b'together {"n":1}'


def test_a_body_that_comes_after_its_head_is_waited_for(known: Client, site: Site) -> None:
    """Python's own client, and most that build on it, send the two apart."""
    request = post(b'{"n":1}')
    for cut in (len(request) - 7, len(request) - 1):
        known.connection.sendall(request[:cut])
        site.catch_up()
        assert known.ask(request[cut:]) == b'together {"n":1}'
    known.connection.sendall(request[:-7])
    for byte in request[-7:-1]:
        known.connection.sendall(bytes([byte]))
        site.catch_up()
    assert known.ask(request[-1:]) == b'together {"n":1}'
    known.connection.sendall(request + request[:-3])
    assert known.answer()[1] == b'together {"n":1}'
    assert known.ask(request[-3:]) == b'together {"n":1}'


@pytest.mark.parametrize("size", [8_000, 8_192, 200_000])
def test_a_large_body_goes_its_own_way(connect: Callable[[], socket.socket], site: Site, size: int) -> None:
    body = b'{"n":"%b"}' % (b"x" * size)
    client = Client(connect()).learn(body)
    client.connection.sendall(post(body)[:-5])
    site.catch_up()
    assert client.ask(body[-5:]) == (b"together " if size == 8_000 else b"lane ") + body


@pytest.mark.parametrize("begun", [7, 1])
def test_a_body_that_does_not_come_has_its_time(sites: Sites, begun: int) -> None:
    site = sites(head=0.3, body=0.3)
    with site.connect() as connection:
        client = Client(connection).learn()
        connection.sendall(post(b'{"n":1}')[:-begun])
        assert client.answer()[0] == 408
        assert client.rest() == b""


def test_a_body_that_comes_byte_by_byte_has_no_more_time_for_it(sites: Sites) -> None:
    site = sites(head=0.5, body=0.5)
    body = b'{"n":"%b"}' % (b"x" * 1_000)
    with site.connect() as connection:
        client = Client(connection).learn(body)
        connection.sendall(post(body)[:-1_000])
        sent = 0
        while not site.has_answered(connection):
            connection.sendall(b"x")
            sent += 1
            assert sent < 900
            threading.Event().wait(0.02)
        assert client.answer()[0] == 408


def test_the_end_before_the_body_is_no_request(sites: Sites) -> None:
    site = sites()
    with site.connect() as connection:
        client = Client(connection).learn()
        connection.sendall(post(b'{"n":1}')[:-3])
        site.catch_up()
        connection.shutdown(socket.SHUT_WR)
        assert b"together" not in client.rest()
    assert site.stop() == "drained"


def test_a_body_under_way_is_waited_for_by_the_drain(sites: Sites) -> None:
    site = sites()
    with site.connect() as connection:
        client = Client(connection).learn()
        connection.sendall(post(b'{"n":1}')[:-3])
        site.catch_up()
        site.process.terminate()
        until(lambda: is_refused(site))
        connection.sendall(post(b'{"n":1}')[-3:])
        [answer] = split_answers(client.rest())
    assert answer.body.endswith(b' {"n":1}')
    assert answer.headers["connection"] == "close"
    assert site.stop() == "drained"


def is_refused(site: Site) -> bool:
    try:
        site.connect().close()
    except ConnectionRefusedError:
        return True
    return False


def test_several_in_a_piece_are_answered_in_order(known: Client) -> None:
    known.connection.sendall(b"".join(post(b'{"n":%d}' % number) for number in range(10)))
    known.connection.shutdown(socket.SHUT_WR)
    bodies = [answer.body for answer in split_answers(known.rest())]
    assert [body.partition(b" ")[2] for body in bodies] == [b'{"n":%d}' % number for number in range(10)]


@pytest.mark.parametrize("size", [1, 50, 107, 1_000, 100_000])
def test_a_client_that_does_not_wait_is_answered_in_order(known: Client, size: int) -> None:
    """Whatever the pieces: whole requests, the beginning of one, a head without its body."""
    bodies = [b'{"n":%d}' % (number % 10) if number % 7 else b'{"m":"%02d"}' % (number % 100) for number in range(300)]
    data = b"".join(map(post, bodies))
    for start in range(0, len(data), size):
        known.connection.sendall(data[start : start + size])
        if start % 11 == 0:
            threading.Event().wait(0.001)
    told = [known.answer()[1].partition(b" ") for _ in bodies]
    assert [body for _, _, body in told] == bodies
    assert {how for how, _, _ in told} <= {b"lane", b"together"}


def test_many_in_a_piece_are_taken_together(known: Client) -> None:
    known.connection.sendall(b"".join(post(b'{"n":%d}' % number) for number in range(10)))
    assert [known.answer()[1] for _ in range(10)] == [b'together {"n":%d}' % number for number in range(10)]


def test_what_follows_in_the_same_piece_goes_its_own_way(known: Client) -> None:
    other = b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n"
    known.connection.sendall(post(b'{"n":1}') * 2 + other + post(b'{"n":2}'))
    assert [known.answer()[0] for _ in range(4)] == [202, 202, 200, 202]
    known.connection.sendall(post(b'{"n":1}') + b"NO HTTP\r\n\r\n")
    assert [known.answer()[0] for _ in range(2)] == [202, 400]


def test_the_end_behind_what_was_taken_is_seen(known: Client) -> None:
    known.connection.sendall(post(b'{"n":1}') + post(b'{"n":2}')[:-3])
    known.connection.shutdown(socket.SHUT_WR)
    assert known.answer()[1] == b'together {"n":1}'
    assert known.rest() == b""


def test_a_beginning_that_is_not_gone_on_with_ends_in_time(sites: Sites) -> None:
    with sites(head=0.3).connect() as connection:
        client = Client(connection).learn()
        connection.sendall(post(b'{"n":1}') + post(b'{"n":2}')[:40])
        assert client.answer()[1] == b'together {"n":1}'
        assert client.answer()[0] == 408
        assert client.rest() == b""


def test_a_beginning_that_turns_out_to_be_another_has_no_more_time_for_it(sites: Sites) -> None:
    with sites(head=3).connect() as connection:
        client = Client(connection).learn()
        connection.sendall(post(b'{"n":1}') + post(b'{"n":2}')[:40])
        begun = time.monotonic()
        assert client.answer()[1] == b'together {"n":1}'
        time.sleep(2)
        connection.sendall(b"X-Another: field\r\n")
        assert client.answer()[0] == 408
        assert time.monotonic() - begun < 4.5


def test_what_comes_before_the_answer_waits_for_it(known: Client, site: Site) -> None:
    known.learn(b'{"n":"slow"}')
    known.connection.sendall(post(b'{"n":"slow"}'))
    site.catch_up()
    for number in range(3):
        known.connection.sendall(post(b'{"n":%d}' % number))
    known.connection.shutdown(socket.SHUT_WR)
    bodies = [answer.body for answer in split_answers(known.rest())]
    assert bodies[0] == b'together {"n":"slow"}'
    assert [body.partition(b" ")[2] for body in bodies[1:]] == [b'{"n":%d}' % number for number in range(3)]


def test_what_cannot_be_together_is_answered_by_itself(connect: Callable[[], socket.socket]) -> None:
    clients = [Client(connect()).learn(b'{"n":"fine!"}') for _ in range(4)]
    bodies = [b'{"n":"fine1"}', b'{"n":"apart"}', b'{"n":"fine2"}', b'{"n":"fine3"}']
    for client, body in zip(clients, bodies, strict=True):
        client.connection.sendall(post(body))
    for client, body in zip(clients, bodies, strict=True):
        status, answer = client.answer()
        assert status == 202
        assert answer in ({b"lane " + body} if b"apart" in body else {b"lane " + body, b"together " + body})


def test_an_answer_that_does_not_go_at_once_is_sent_whole(sites: Sites) -> None:
    site = sites(idle=1)
    with site.connect() as connection:
        client = Client(connection).learn(b'{"n":"large"}')
        for number in range(3):
            connection.sendall(post(b'{"n":"large"}'))
            site.catch_up()
            if number == 1:
                connection.sendall(post(b'{"n":"small"}'))  # meanwhile
            _, answer = client.answer()
            assert answer.startswith(b'together {"n":"large"}')
            assert len(answer) > 10_000_000
            if number == 1:
                assert client.answer()[1].endswith(b' {"n":"small"}')
        assert client.rest() == b"", "it is idle again, and so it ends"


def test_a_connection_that_is_idle_behind_such_an_answer_ends(sites: Sites) -> None:
    with sites(idle=1).connect() as connection:
        client = Client(connection).learn()
        for number in range(5):
            threading.Event().wait(0.25)  # more in all than it may be idle
            assert client.ask(post(b'{"n":%d}' % number)) == b'together {"n":%d}' % number
        assert client.rest() == b""


def test_the_end_waits_for_the_answer(sites: Sites) -> None:
    site = sites()
    with site.connect() as connection:
        Client(connection).learn(b'{"n":"slow"}')
        connection.sendall(post(b'{"n":"slow"}'))
        site.catch_up()
        site.process.terminate()
        [answer] = split_answers(read_all(connection))
    assert answer.body == b'together {"n":"slow"}'
    assert answer.headers["connection"] == "close"
    assert site.stop() == "drained"


@pytest.mark.parametrize("more", [b"", post(b'{"n":"slow"}') * 3, post(b'{"n":"slow"}')[:30], b"GET / HTTP/1.1\r\n"])
@pytest.mark.parametrize("apart", [False, True])
def test_nothing_is_answered_behind_the_last_answer(sites: Sites, more: bytes, apart: bool) -> None:
    """What it was told that the connection closes behind, a client takes for not done, and sends again."""
    site = sites()
    with site.connect() as connection:
        Client(connection).learn(b'{"n":"slow"}')
        connection.sendall(post(b'{"n":"slow"}') + (b"" if apart else more))
        site.catch_up()
        if apart and more:
            connection.sendall(more)
        site.process.terminate()
        answers = split_answers(read_all(connection))
    together = 4 if more.count(b"slow") == 3 and not apart else 1
    assert [answer.headers.get("connection") for answer in answers] == [*[None] * (together - 1), "close"]
    assert site.stop() == "drained"


@pytest.mark.parametrize("more", [b"GET /", b"GET / HTTP/1.1\r\nHo", post(b'{"n":"long one"}')[:-9]])
def test_what_is_begun_behind_a_post_has_its_time(sites: Sites, more: bytes) -> None:
    with sites(head=0.3, body=0.3).connect() as connection:
        client = Client(connection).learn()
        connection.sendall(post(b'{"n":1}') + more)
        assert client.answer()[1] == b'together {"n":1}'
        assert client.answer()[0] == 408
        assert client.rest() == b""


def test_an_answer_while_more_comes_is_the_answer_to_what_it_answers(sites: Sites) -> None:
    """Two topics at once, the first slow; what follows comes just when its answer does."""
    site = sites()
    slow, next_, last = post(b'{"n":"slow"}'), post(b'{"n":2}', target="/lane2"), post(b'{"n":3}', target="/lane2")

    def run(number: int) -> list[bytes]:
        with site.connect() as connection:
            client = Client(connection).learn(b'{"n":"slow"}')
            for _ in range(2):
                client.ask(next_)
            assert client.ask(slow) == b'together {"n":"slow"}'
            connection.sendall(slow + next_)
            threading.Event().wait(0.495 + number / 5_000)
            connection.sendall(last)
            found = [client.answer()[1].partition(b" ")[2] for _ in range(3)]
            return [*found, client.ask(slow).partition(b" ")[2]]

    with ThreadPoolExecutor(50) as pool:
        for found in pool.map(run, range(50)):
            assert found == [b'{"n":"slow"}', b'{"n":2}', b'{"n":3}', b'{"n":"slow"}']


def test_an_error_of_ours_is_told_to_all_and_ends_them(sites: Sites) -> None:
    site = sites()
    with site.connect() as one, site.connect() as other:
        clients = [Client(connection).learn(b'{"n":"fine!"}') for connection in (one, other)]
        for client, body in zip(clients, (b'{"n":"raise"}', b'{"n":"fine!"}'), strict=True):
            client.connection.sendall(post(body))
        assert clients[0].answer()[0] == 500
        assert clients[0].rest() == b""
        assert clients[1].answer()[0] in (202, 500)
    assert site.stop() == "drained"
    assert "asked for in the lane" in site.log


def test_who_goes_away_before_the_answer_holds_nothing(sites: Sites) -> None:
    site = sites()
    for _ in range(5):
        with site.connect() as connection:
            Client(connection).learn(b'{"n":"slow"}')
            connection.sendall(post(b'{"n":"slow"}'))
    with site.connect() as connection:
        Client(connection).learn(b'{"n":"slow"}').ask(post(b'{"n":"slow"}'))  # it takes as long, and begins later
    assert site.stop() == "drained"
    assert "Traceback" not in site.log


# With the log of Redis behind


def learn(server: Stack, topic: str) -> None:
    """Let the server know what events of a topic look like."""
    for start in range(0, 128, 64):
        events = [{"key": "a", "n": -number} for number in range(start + 1, start + 65)]
        assert server.post(topic, json.dumps(events).encode()).status == 202


def request(server: Stack, topic: str, body: bytes) -> bytes:
    path = f"/v1/topics/{topic}/events"
    return post(body, target=path).replace(b"Host: a", b"Host: 127.0.0.1:%d" % server.port)


def posted(server: Stack, topic: str, bodies: list[list[bytes]]) -> list[list[tuple[int, dict[str, Any]]]]:
    """Post on connections of their own, each as fast as it is answered; return status and answer of each post."""

    def run(own: list[bytes]) -> list[tuple[int, dict[str, Any]]]:
        found = []
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
            client = Client(connection)
            for body in own:
                connection.sendall(request(server, topic, body))
                status, answer = client.answer()
                found.append((status, json.loads(answer)))
        return found

    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(run, bodies))


def test_every_post_is_stored_once_at_the_offset_it_is_told(shared_server: Stack, topic: str) -> None:
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


def test_bad_ones_among_them_are_refused_alone(shared_server: Stack, topic: str) -> None:
    learn(shared_server, topic)
    good, bad = [b'{"key":"a","n":%d}' % number for number in range(10)], b'{"key":"a","n":}'
    bodies = [[*good, bad, *good] for _ in range(8)]
    for got in posted(shared_server, topic, bodies):
        assert [status for status, _ in got] == [202] * 10 + [400] + [202] * 10
        assert got[10][1]["type"] == "urn:pushsvc:problem:invalid-events"


def test_equal_ids_of_several_are_stored_once(shared_server: Stack, topic: str) -> None:
    events = [{"id": f"first-{number}", "n": 1} for number in range(128)]
    for start in (0, 64):
        assert shared_server.post(topic, json.dumps(events[start : start + 64]).encode()).status == 202
    bodies = [[b'{"id":"id-%03d","n":1}' % at for at in range(100)] for _ in range(8)]
    answers = posted(shared_server, topic, bodies)
    offsets = [[answer["first_offset"] for _, answer in got] for got in answers]
    assert all(one == offsets[0] for one in offsets)
    assert sum(answer["accepted"] for got in answers for _, answer in got) == 100
    assert len(history(shared_server, topic)) == 228


def test_without_redis_each_is_told_so(prefix: str, tmp_path: Path, proxy: Proxy) -> None:
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
