"""Processes are replaced one after the other while a browser watches and events arrive."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection, HTTPException

import pytest
from playwright.sync_api import Page

from support.ports import free_port
from support.stack import Stack
from support.waiting import until

WATCH = """(topic) => {
  window.seen = []; window.opened = 0; window.resets = 0; window.back = 0; window.offset = 0;
  const events = new EventSource(`/v1/topics/${topic}/events?last_event_id=earliest`);
  events.onopen = () => window.opened++;
  events.onmessage = (event) => window.seen.push(JSON.parse(event.data).$offset);
  const stats = new EventSource(`/v1/topics/${topic}/stats`);
  const frame = (event) => {
    const offset = JSON.parse(event.data).offset;
    if (offset < window.offset) window.back++;
    window.offset = offset;
  };
  stats.addEventListener("snapshot", frame);
  stats.addEventListener("update", frame);
  for (const source of [events, stats]) source.addEventListener("reset", () => window.resets++);
}"""
REPORT = "() => [window.seen, window.opened, window.resets, window.back]"
_ENOUGH = 30


class Balancer:
    """A TCP balancer: a connection goes to the first server that accepts it."""

    def __init__(self, ports: list[int]) -> None:
        self._ports = ports
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = self._server()
                if server is None:
                    client.close()
                    continue
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    def _server(self) -> socket.socket | None:
        for port in self._ports:
            with suppress(OSError):
                return socket.create_connection(("127.0.0.1", port))
        return None

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Producer(threading.Thread):
    """Publishes events with ids until ``stop``; repeats each one until it is acknowledged."""

    def __init__(self, port: int, topic: str) -> None:
        super().__init__()
        self._port, self._topic = port, topic
        self._over = threading.Event()
        self.acknowledged = self.repeated = 0

    def run(self) -> None:
        while not self._over.is_set():
            if self._posted(json.dumps({"id": f"id-{self.acknowledged}", "n": 1})):
                self.acknowledged += 1
            else:
                self.repeated += 1
            self._over.wait(0.02)

    def _posted(self, body: str) -> bool:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            connection.request("POST", f"/v1/topics/{self._topic}/events", body)
            return connection.getresponse().status == 202
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    def stop(self) -> None:
        self._over.set()
        self.join()


@pytest.fixture
def ports(stack: Stack) -> list[int]:
    return [free_port(), free_port()]


@pytest.fixture
def balancer(ports: list[int]) -> Iterator[Balancer]:
    balancer = Balancer(ports)
    yield balancer
    balancer.close()


def ready(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def start_web(stack: Stack, port: int) -> None:
    stack.start(f"web-{port}", "web", "--port", str(port), "--drain", "2")
    until(lambda: ready(port))


def wait_for_events(producer: Producer) -> None:
    """Wait until the producer has published some more events."""
    reached = producer.acknowledged + _ENOUGH
    until(lambda: producer.acknowledged >= reached)


def received(page: Page) -> list[int]:
    """Return the number of events of the page and the offset of its statistics."""
    found: list[int] = page.evaluate("() => [window.seen.length, window.offset]")
    return found


def opened_without_a_gap(page: Page, last: int) -> int:
    """Wait until the page has each event up to an offset once, in order; return how often it connected."""
    until(lambda: min(received(page)) >= last)
    seen, opened, resets, back = page.evaluate(REPORT)
    assert seen == list(range(1, last + 1))
    assert (resets, back) == (0, 0)
    return int(opened)


def test_no_event_is_missed_while_every_process_is_replaced(
    page: Page, stack: Stack, ports: list[int], balancer: Balancer, topic: str
) -> None:
    stack.start("aggregator-1", "aggregator")
    for port in ports:
        start_web(stack, port)
    page.goto(f"http://127.0.0.1:{balancer.port}/livez")
    page.evaluate(WATCH, topic)
    producer = Producer(balancer.port, topic)
    producer.start()
    try:
        until(lambda: received(page)[0] >= _ENOUGH)
        for port in ports:
            assert stack.stop(f"web-{port}") == 0
            wait_for_events(producer)
            start_web(stack, port)
            wait_for_events(producer)
        stack.start("aggregator-2", "aggregator")
        assert stack.stop("aggregator-1") == 0
        wait_for_events(producer)
    finally:
        producer.stop()
    assert opened_without_a_gap(page, producer.acknowledged) >= 2, "the browser was on a process that was replaced"


def test_no_event_is_missed_when_the_only_process_restarts(page: Page, stack: Stack, topic: str) -> None:
    stack.start_aggregator()
    stack.start_web("--drain", "2")
    page.goto(f"{stack.url}/livez")
    page.evaluate(WATCH, topic)
    producer = Producer(stack.port, topic)
    producer.start()
    try:
        until(lambda: received(page)[0] >= _ENOUGH)
        assert stack.stop("web") == 0
        stack.start_web()
        wait_for_events(producer)
    finally:
        producer.stop()
    assert opened_without_a_gap(page, producer.acknowledged) == 2
