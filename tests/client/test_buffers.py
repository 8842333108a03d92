"""Buffers of single events, for both clients."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter

import pytest

from pushsvc_client import AsyncClient, Client, ClientError, InvalidValue
from support.both_clients import on_a_loop
from support.ports import free_port
from support.processes import forked
from support.proxy import Last, Proxy

EVENTS = 5_000


@pytest.fixture
def cutting(shared_server):
    """A proxy that cuts one of four answers, twelve times in all."""
    proxy, chance, left = Proxy(("127.0.0.1", shared_server.port)), random.Random(3), [12]

    def cut(data):
        if left[0] and chance.random() < 0.25:
            left[0] -= 1
            return Last(data[: len(data) // 2])
        return data

    proxy.downward = cut
    yield f"http://127.0.0.1:{proxy.port}"
    proxy.close()


def check(server, topic):
    found = [(event["thread"], event["n"]) for event in Client(server.url).history(topic)]
    assert Counter(found) == Counter((thread, n) for thread in range(4) for n in range(EVENTS // 4))
    for thread in range(4):
        assert [n for one, n in found if one == thread] == list(range(EVENTS // 4))


def test_threads_fill_a_buffer_and_each_event_is_stored_once_in_order(shared_server, cutting, topic):
    with Client(cutting, patience=120) as client, client.buffer(size=100) as buffer:

        def fill(thread):
            for n in range(EVENTS // 4):
                buffer.publish(topic, {"thread": thread, "n": n})

        threads = [threading.Thread(target=fill, args=[thread]) for thread in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        buffer.publish(f"{topic}.other", {"x": 1})
    check(shared_server, topic)
    assert Client(shared_server.url).topic(f"{topic}.other")["last_offset"] == 1


@on_a_loop
async def test_tasks_fill_a_buffer_and_each_event_is_stored_once_in_order(shared_server, cutting, topic):
    async with AsyncClient(cutting, patience=120) as client, client.buffer(size=100) as buffer:

        async def fill(thread):
            for n in range(EVENTS // 4):
                await buffer.publish(topic, {"thread": thread, "n": n})

        await asyncio.gather(*map(fill, range(4)))
        await buffer.publish(f"{topic}.other", {"x": 1})
    await asyncio.to_thread(check, shared_server, topic)
    assert Client(shared_server.url).topic(f"{topic}.other")["last_offset"] == 1


def test_what_cannot_be_published_is_reported_once(shared_server, topic):
    with Client(shared_server.url) as client, client.buffer() as buffer:
        with pytest.raises(InvalidValue, match="'x'"):
            buffer.publish(topic, {"x": float("nan")})
        buffer.publish("not a topic", {"x": 1})
        with pytest.raises(ClientError, match="400"):
            buffer.flush()
        buffer.publish(topic, {"x": 1})
        buffer.flush()
        assert client.topic(topic)["last_offset"] == 1
    with pytest.raises(ValueError, match="closed"):
        buffer.publish(topic, {"x": 1})
    with pytest.raises(ValueError, match="size"):
        client.buffer(size=0)


@on_a_loop
async def test_what_tasks_cannot_publish_is_reported_once(shared_server, topic):
    async with AsyncClient(shared_server.url) as client, client.buffer() as buffer:
        with pytest.raises(InvalidValue, match="'x'"):
            await buffer.publish(topic, {"x": float("nan")})
        await buffer.publish("not a topic", {"x": 1})
        with pytest.raises(ClientError, match="400"):
            await buffer.flush()
        await buffer.publish(topic, {"x": 1})
        await buffer.flush()
        assert (await client.topic(topic))["last_offset"] == 1
    with pytest.raises(ValueError, match="open"):
        await buffer.publish(topic, {"x": 1})


def test_a_server_that_is_away_is_reported_at_the_end_unless_the_block_fails():
    client = Client(f"http://127.0.0.1:{free_port()}", patience=0)
    with pytest.raises(ClientError, match="cannot be reached"), client.buffer() as buffer:
        buffer.publish("t", {"x": 1})
    with pytest.raises(LookupError):
        _fail_with_a_buffer(client)


def _fail_with_a_buffer(client):
    with client.buffer() as buffer:
        buffer.publish("t", {"x": 1})
        raise LookupError("of the block")


def test_a_forked_process_has_a_buffer_of_its_own(shared_server, topic):
    """The thread and the ids of the parent would be of no use to a child: it would wait without an end, and the server
    would take its events for those of the parent."""
    with Client(shared_server.url) as client, client.buffer(size=2) as buffer:
        buffer.publish(topic, {"by": "parent", "n": 0})
        buffer.flush()

        def fill(by):
            for n in range(1, 5):
                buffer.publish(topic, {"by": by, "n": n})
            buffer.flush()

        with forked(fill, ["one", "other"]):
            fill("parent")
    found = Counter(event["by"] for event in Client(shared_server.url).history(topic))
    assert found == {"parent": 5, "one": 4, "other": 4}
