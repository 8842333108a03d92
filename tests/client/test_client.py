"""The client against real servers, and against a scripted socket for failures that real servers rarely show."""

from __future__ import annotations

import json
import math
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from multiprocessing import get_context

import pytest

from pushsvc.client import Client, ClientError
from support.ports import free_port
from support.processes import forked
from support.stack import Stack
from support.waiting import DEADLINE

RECEIPT = b'{"accepted":1}'
OK = b"HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\r\n" + RECEIPT
NO_ANSWER = b""
WITH_ID, WITHOUT = [{"id": "a", "x": 1}], [{"x": 1}]


def problem(slug: str, status: int = 503) -> bytes:
    body = json.dumps({"type": f"urn:pushsvc:problem:{slug}", "detail": slug}).encode()
    head = f"HTTP/1.1 {status} No\r\nContent-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Scripted:
    """Answers each connection with the next of ``answers`` and closes it; ``requests`` keeps what it read.

    ``closed`` counts the connections that it has closed.
    """

    def __init__(self, *answers: bytes) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._answers = answers
        self.requests: list[bytes] = []
        self.closed = threading.Semaphore(0)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        for answer in self._answers:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer:
                self.requests.append(self._read(peer))
                peer.sendall(answer)
            self.closed.release()

    def _read(self, peer: socket.socket) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            data += peer.recv(65_536)
        head, _, body = data.partition(b"\r\n\r\n")
        length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")), 0)
        while len(body) < length:
            body += peer.recv(65_536)
        return head + b"\r\n\r\n" + body

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@contextmanager
def scripted(*answers: bytes) -> Iterator[Scripted]:
    with closing(Scripted(*answers)) as server:
        yield server


def event_stream(*lines: str) -> bytes:
    head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    return (head + "".join(f"{line}\n" for line in lines)).encode()


# A real server


def test_publish_returns_the_receipt(shared_server: Stack, topic: str) -> None:
    with Client(shared_server.url) as client:
        receipt = client.publish(topic, [{"id": "a", "x": 1}, {"id": "b", "time": datetime.now(UTC)}])
        assert (receipt["accepted"], receipt["first_offset"], receipt["last_offset"]) == (2, 1, 2)
        assert client.publish(topic, iter([{"id": "a", "x": 1}]))["duplicates"] == 1


def test_publish_takes_a_body_and_query_parameters(shared_server: Stack, topic: str) -> None:
    with Client(shared_server.url) as client:
        receipt = client.publish(topic, b"dish,rating\nsoup,4\nsoup,1e999\n", "text/csv", key="dish", on_error="skip")
        assert (receipt["accepted"], receipt["rejected"]) == (1, 1)
        message = next(client.events(topic, last_id="earliest"))
        assert json.loads(message.data)["key"] == "soup"


def test_a_refused_request_raises_with_the_problem_document(shared_server: Stack, topic: str) -> None:
    with Client(shared_server.url) as client, pytest.raises(ClientError, match=r"400 line 2, field 'key'") as caught:
        client.publish(topic, [{}, {"key": "x" * 300}])
    error = caught.value
    assert (error.reply, error.temporary, error.unknown) == (400, False, False)
    assert error.problem["errors"][0]["line"] == 2


def test_a_refused_stream_raises(shared_server: Stack, topic: str) -> None:
    with Client(shared_server.url) as client, pytest.raises(ClientError, match="window"):
        next(client.stats(topic, window="7 weeks"))


@pytest.mark.parametrize("name", ["a b", "a/../b", "ä", "$x"])
def test_the_topic_is_escaped_in_the_path(shared_server: Stack, name: str) -> None:
    with Client(shared_server.url) as client, pytest.raises(ClientError) as caught:
        client.publish(name, [{}])
    assert caught.value.reply in (400, 404)


def test_stats_yields_statistics_of_published_events(shared_server: Stack, topic: str) -> None:
    with Client(shared_server.url) as client:
        last = client.publish(topic, [{"key": "soup", "rating": n} for n in (2, 4)])["last_offset"]
        for message in client.stats(topic, window="1m"):
            frame = json.loads(message.data)
            if frame["offset"] >= last:
                break
    rows = {(row[0], row[1]): row for row in frame["data"]}
    assert rows["soup", "rating"][frame["columns"].index("mean")] == 3


def test_statistics_are_a_table_of_pandas(shared_server: Stack, topic: str) -> None:
    with Client(shared_server.url) as client:
        receipt = client.publish(topic, [{"key": "a", "x": 1}, {"key": "a", "x": 3}, {"key": "b", "x": 5}])
        table = client.table(topic, window="5m", at_least=receipt["last_offset"])
        rows = table[table["field"] == "x"].set_index("key")
        assert rows.loc["a", ["count", "mean", "max"]].tolist() == [2, 2.0, 3.0]
        assert rows.loc["b", "sum"] == 5.0
        assert (table.attrs["window"], table.attrs["offset"]) == ("5m", 3)
        every = client.table(topic, window="*")
        assert every.columns[0] == "window"
        counts = every[every["key"].isna() & every["field"].isna()].set_index("window")["count"]
        assert counts["5m"] == 3
        with pytest.raises(ClientError, match=r"400 .* is not a window of this topic"):
            client.table(topic, window="7y")


def test_many_threads_share_a_client(shared_server: Stack, topic: str) -> None:
    with Client(shared_server.url) as client, ThreadPoolExecutor(8) as pool:
        receipts = list(pool.map(lambda n: client.publish(topic, [{"n": n}]), range(64)))
    assert sorted(receipt["first_offset"] for receipt in receipts) == list(range(1, 65))


def test_a_stream_resumes_after_a_server_restart_without_a_gap(own_server: Stack, topic: str) -> None:
    with Client(own_server.url) as client:
        client.publish(topic, [{"n": 1}])
        stream = client.events(topic, last_id="earliest")
        assert json.loads(next(stream).data)["n"] == 1
        own_server.restart_web(signal.SIGKILL)
        client.publish(topic, [{"n": 2}])
        assert json.loads(next(stream).data)["n"] == 2
        stream.close()  # type: ignore[attr-defined]


UNDER_GEVENT = """
from gevent import monkey
monkey.patch_all()
import sys, gevent
from pushsvc.client import Client
url, topic = sys.argv[1:]
with Client(url) as client:
    stream = client.events(topic, last_id="earliest")
    reader = gevent.spawn(lambda: [next(stream).data for _ in range(32)])
    for _ in range(2):  # the second round reuses idle connections
        gevent.joinall([gevent.spawn(client.publish, topic, [{"n": n}]) for n in range(16)], raise_error=True)
    print(len(reader.get(timeout=60)))
"""


def test_greenlets_share_a_client(shared_server: Stack, topic: str) -> None:
    command = [sys.executable, "-c", UNDER_GEVENT, shared_server.url, topic]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert (ended.stdout, ended.stderr, ended.returncode) == ("32\n", "", 0)


# Retries


@pytest.mark.parametrize(
    ("failure", "events", "repeated"),
    [
        (NO_ANSWER, WITH_ID, True),
        (NO_ANSWER, WITHOUT, False),
        (NO_ANSWER, [*WITH_ID, *WITHOUT], False),
        (NO_ANSWER, [{"id": None}], False),
        (problem("outcome-unknown"), WITH_ID, True),
        (problem("outcome-unknown"), WITHOUT, False),
        (problem("broker-unavailable"), WITHOUT, True),
        (b"HTTP/1.1 502 Bad\r\nContent-Length: 0\r\n\r\n", WITH_ID, True),
        (b"HTTP/1.1 502 Bad\r\nContent-Length: 0\r\n\r\n", WITHOUT, False),
        (problem("invalid-events", 400), WITH_ID, False),
        (problem("internal", 500), WITH_ID, False),
    ],
)
def test_a_request_is_repeated_only_if_no_event_can_be_stored_twice(
    failure: bytes, events: list[dict[str, object]], repeated: bool
) -> None:
    with scripted(failure, OK) as server, Client(server.url) as client:
        if repeated:
            assert client.publish("t", events) == {"accepted": 1}
        else:
            with pytest.raises(ClientError):
                client.publish("t", events)
    assert len(server.requests) == 1 + repeated


def test_only_the_request_that_failed_is_repeated() -> None:
    receipts = [
        {"accepted": 1, "duplicates": 0, "rejected": 0, "late": 0, "first_offset": n, "last_offset": n} for n in (1, 2)
    ]
    first, second = (b"HTTP/1.1 202 Accepted\r\n\r\n" + json.dumps(receipt).encode() for receipt in receipts)
    with scripted(first, NO_ANSWER, second) as server, Client(server.url) as client:
        receipt = client.publish("t", ({"id": n} for n in range(2)), batch_size=1)
    assert receipt == receipts[0] | {"accepted": 2, "last_offset": 2}
    assert [request.rpartition(b"\r\n")[2] for request in server.requests] == [b'[{"id":0}]'] + [b'[{"id":1}]'] * 2


@pytest.mark.parametrize("repeatable", [False, True])
def test_a_body_is_repeated_if_the_caller_says_it_is_repeatable(repeatable: bool) -> None:
    with scripted(NO_ANSWER, OK) as server, Client(server.url) as client:
        if repeatable:
            client.publish("t", b"{}", repeatable=True)
        else:
            with pytest.raises(ClientError, match="the events may have been stored") as caught:
                client.publish("t", b"{}")
            assert caught.value.unknown
    assert len(server.requests) == 1 + repeatable


def test_an_idle_connection_that_the_server_closed_is_replaced() -> None:
    with scripted(OK, OK) as server, Client(server.url) as client:
        client.publish("t", WITHOUT)
        assert server.closed.acquire(timeout=DEADLINE)
        client.publish("t", WITHOUT)
    assert len(server.requests) == 2


def test_a_refused_connection_is_temporary_and_not_unknown() -> None:
    client = Client(f"http://127.0.0.1:{free_port()}", patience=0)
    with pytest.raises(ClientError, match="cannot be reached") as caught:
        client.publish("t", WITHOUT)
    assert (caught.value.temporary, caught.value.unknown) == (True, False)
    with pytest.raises(ClientError, match="cannot be reached"):
        next(client.events("t"))


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "", "http://"])
def test_an_invalid_url_raises(url: str) -> None:
    with pytest.raises(ClientError, match="is not the address of a server"):
        Client(url)


@pytest.mark.parametrize("value", [math.nan, math.inf, object(), {1, 2}])
def test_events_without_a_json_form_raise(value: object) -> None:
    with pytest.raises(ClientError, match="cannot be written as JSON"):
        Client("http://127.0.0.1:1").publish("t", [{"x": value}])


# Streams


def test_a_stream_reconnects_after_the_servers_delay_and_resumes() -> None:
    first = event_stream("retry: 1", ": hi", "", "id: c1", "data: 1", "", "id: c2", "data: lost with its connec")
    second = event_stream("event: reset", "data: {}", "", "id: c3", "", "data: 3", "")
    with scripted(first, problem("draining", 503), second) as server, Client(server.url) as client:
        stream = client.events("t", names="off")
        messages = [next(stream) for _ in range(3)]
        stream.close()  # type: ignore[attr-defined]
    assert [(m.event, m.data, m.id) for m in messages] == [
        ("message", "1", "c1"),
        ("reset", "{}", "c1"),
        ("message", "3", "c3"),
    ]
    assert b"Last-Event-ID" not in server.requests[0]
    assert all(b"Last-Event-ID: c1\r\n" in request for request in server.requests[1:])
    assert server.requests[2].startswith(b"GET /v1/topics/t/events?names=off HTTP/1.1")


def test_an_answer_that_is_no_event_stream_raises() -> None:
    with (
        scripted(OK.replace(b"202", b"200")) as server,
        Client(server.url) as client,
        pytest.raises(ClientError, match="answered application/json, not an event stream"),
    ):
        next(client.events("t"))


# Outages


def test_an_outage_is_reported_once_with_its_reason_and_its_end() -> None:
    greeting = ("retry: 10", "", ": pushsvc", "")
    refusal = event_stream(*greeting, "retry: 10", "", ": Redis is not reachable", "")
    reports: list[str | None] = []
    streams = (
        event_stream(*greeting, "data: 1", ""),
        refusal,
        problem("full"),
        refusal,
        event_stream(*greeting, "data: 2", ""),
    )
    with scripted(*streams) as server, Client(server.url, on_outage=reports.append) as client:
        messages = client.events("t")
        assert next(messages).data == "1"
        assert reports == []
        assert next(messages).data == "2"
    assert reports == [f"{server.url} ended the stream: Redis is not reachable", None]


def test_a_server_that_is_away_at_first_is_reported() -> None:
    reports: list[str | None] = []
    url = f"http://127.0.0.1:{free_port()}"
    with (
        Client(url, patience=0.0, on_outage=reports.append) as client,
        pytest.raises(ClientError, match="cannot be reached"),
    ):
        next(client.events("t"))
    assert reports == [f"{url} cannot be reached: [Errno 111] Connection refused"]


def test_one_stream_has_events_and_statistics_of_patterns(shared_server: Stack, topic: str) -> None:
    with Client(shared_server.url) as client:
        client.publish(f"{topic}.a", [{"x": 1}])
        wanted = {(f"{topic}.a", "message"), (f"{topic}.a", "snapshot")}
        for message in client.stream(events=[f"{topic}.*"], stats=[f"{topic}.>"], last_id="earliest", window="5m"):
            body = json.loads(message.data)
            wanted.discard((body.get("$topic") or body.get("topic"), message.event))
            if not wanted:
                return


def test_password_in_the_url_is_not_shown() -> None:
    for url in ("http://me:s3cr3t@127.0.0.1:1", "me:s3cr3t@127.0.0.1:1"):
        with pytest.raises(ClientError) as error:
            Client(url, patience=0).publish("t", [{"x": 1}])
        assert "127.0.0.1:1" in str(error.value)
        assert "s3cr3t" not in str(error.value)


def test_forked_processes_get_their_own_answers(shared_server: Stack, topic: str) -> None:
    """An idle connection of the parent is open in its children, too: their requests and answers would mix."""
    together = get_context("fork").Barrier(2)
    with Client(shared_server.url) as client:
        client.publish(topic, {"n": 0})

        def publish(number: int) -> None:
            own = f"{topic}.{number}"
            together.wait(DEADLINE)
            for n in range(300):
                assert client.publish(own, {"n": n})["topic"] == own

        with forked(publish, range(2)):
            pass
        assert [client.topic(f"{topic}.{number}")["last_offset"] for number in range(2)] == [300, 300]
