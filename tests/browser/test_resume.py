"""A real EventSource loses its server and resumes from its cursor."""

from __future__ import annotations

import signal
import socket
import threading
import time
from contextlib import closing, suppress
from itertools import pairwise
from typing import Any

import redis
from playwright.sync_api import Page, expect

from pushsvc.broker.broker import Broker
from pushsvc.broker.keys import Keys
from pushsvc.cursor import MAX_LENGTH
from pushsvc.event import Event
from pushsvc.hub.delivery.chunked import LAST_CHUNK, frame
from pushsvc.hub.messages import OPENING
from pushsvc.settings import TopicSettings
from pushsvc.topic import PARTITIONS, partition_of
from support.stack import Stack
from support.waiting import until

_LISTEN = """(path) => {
  window.seen = []; window.resets = 0; window.cursor = "";
  const source = new EventSource(path);
  source.onmessage = (message) => {
    const event = JSON.parse(message.data);
    window.seen.push(`${event.$topic} ${event.$offset}`);
    window.cursor = message.lastEventId;
  };
  source.addEventListener("reset", () => { window.resets += 1; });
}"""


def test_chromium_resumes_every_topic_from_one_cursor(
    page: Page, stack: Stack, broker: Broker, redis_url: str, prefix: str
) -> None:
    """Topics of all partitions, by name and by pattern. Events arrive between the server's death and its restart."""
    topics = [f"many.{name}.n{number}" for number in range(100) for name in ("a", "b")]
    assert {partition_of(topic) for topic in topics} == set(range(PARTITIONS))
    stack.start_web()
    with redis.Redis.from_url(redis_url) as admin:
        for partition in range(PARTITIONS):
            admin.hincrby(Keys(prefix).partition(partition), "sequence", 2**34)

    def publish() -> None:
        for topic in topics:
            broker.publish(topic, [Event(data={"n": 1})], TopicSettings())

    def seen(last: int) -> Any:
        found = page.evaluate("window.seen")
        return len(found) >= last * len(topics) and found

    page.goto(f"{stack.url}/")
    expect(page.locator("#connection")).to_have_attribute("data-state", "open")
    publish()
    named = "&".join(f"events={topic}" for topic in topics[::2])
    page.evaluate(_LISTEN, f"/v1/stream?{named}&events=many.b.*&last_event_id=earliest")
    until(lambda: seen(1))
    for last in (2, 3):
        assert 64 * 6 < len(page.evaluate("window.cursor")) <= MAX_LENGTH
        stack.stop("web", signal.SIGKILL)
        until(lambda: not stack.listening())
        publish()
        stack.start_web()
        assert sorted(until(lambda: seen(last))) == sorted(  # noqa: B023
            f"{topic} {offset}" for topic in topics for offset in range(1, last + 1)
        )
    assert page.evaluate("window.resets") == 0


def test_chromium_obeys_the_delay_of_a_stream_that_ends_without_a_message(page: Page) -> None:
    """No blank line follows the delay of a farewell. Its own delay would be three seconds."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nAccess-Control-Allow-Origin: *\r\n"
    answer = head + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer += frame(OPENING) + frame(b"retry: 200\n: the server is restarting\n") + LAST_CHUNK
    times: list[float] = []

    def serve(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                with client:
                    if b"text/event-stream" in client.recv(65_536):
                        times.append(time.monotonic())
                    client.sendall(answer)

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        page.evaluate("(url) => { new EventSource(url); }", f"http://127.0.0.1:{listener.getsockname()[1]}/")
        until(lambda: len(times) >= 5)
        listener.shutdown(socket.SHUT_RDWR)
    assert min(later - earlier for earlier, later in pairwise(times)) < 1.5
