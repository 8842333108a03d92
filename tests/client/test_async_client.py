"""Cancellation, asynchronous tokens and several loops; TLS and a prefix for both clients."""

from __future__ import annotations

import asyncio
import gc
import ssl
import time
import warnings

import jwt
import pytest

from pushsvc_client import AsyncClient, Client, ClientError
from support.both_clients import CLIENTS, on_a_loop, run_loop, until_async
from support.site_proxy import SiteProxy

SECRET = "a secret of more than thirty-two bytes"


class Silent:
    """A server that reads requests, and answers with nothing but ``head``; ``connections`` are those that are open."""

    def __init__(self, head: bytes = b"") -> None:
        self.requests: list[bytes] = []
        self.connections: set[object] = set()
        self._head = head

    async def __aenter__(self) -> Silent:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader, writer) -> None:
        self.connections.add(writer)
        try:
            while data := await reader.read(65_536):
                self.requests.append(data)
                writer.write(self._head)
        except ConnectionError:
            pass
        self.connections.discard(writer)
        writer.close()


@on_a_loop
async def test_a_cancelled_request_closes_its_connection_and_the_client_goes_on(shared_server, topic):
    async with Silent() as server, AsyncClient(server.url) as client:
        publishing = asyncio.create_task(client.publish(topic, {"x": 1}))
        await until_async(lambda: server.requests)
        publishing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await publishing
        await until_async(lambda: not server.connections)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.topic(topic), 0.1)
        await until_async(lambda: not server.connections)


@on_a_loop
async def test_a_cancelled_stream_closes_its_connection(topic):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n"
    async with Silent(head) as server, AsyncClient(server.url) as client:
        for abandon in ("cancel", "close", "break"):
            stream = client.events(topic)
            assert (await anext(stream)).data == "1"
            assert len(server.connections) == 1
            if abandon == "cancel":
                waiting = asyncio.create_task(anext(stream))
                await asyncio.sleep(0)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
            elif abandon == "close":
                await stream.aclose()
            del stream
            gc.collect()
            await until_async(lambda: not server.connections)


@on_a_loop
async def test_a_server_that_does_not_answer_is_given_up(topic):
    async with Silent() as server, AsyncClient(server.url, timeout=0.1, patience=0) as client:
        with pytest.raises(ClientError, match="lost before the answer") as caught:
            await client.publish(topic, {"x": 1})
        assert caught.value.unknown
        with pytest.raises(ClientError, match="did not answer"):
            await anext(client.events(topic))


@on_a_loop
async def test_at_most_a_hundred_requests_are_sent_at_a_time(topic):
    async with Silent() as server, AsyncClient(server.url) as client:
        tasks = [asyncio.create_task(client.publish(topic, {"n": n})) for n in range(150)]
        await until_async(lambda: len(server.connections) == 100)
        tasks[0].cancel()  # its place is the next one's
        await until_async(lambda: len(server.requests) == 101)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await until_async(lambda: not server.connections)


def test_a_client_is_used_in_one_loop_after_another(shared_server, topic):
    client = AsyncClient(shared_server.url)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in (1, 2, 3):
            assert run_loop(client.publish(topic, {"x": 1}))["last_offset"] == number
        run_loop(client.aclose())


def test_a_client_that_blocks_takes_nothing_asynchronous(shared_server, topic):
    async def events():
        await asyncio.sleep(0)
        yield {"x": 1}

    with Client(shared_server.url) as client, pytest.raises(TypeError, match="AsyncClient"):
        client.publish(topic, events())


def token(seconds: float) -> str:
    claims = {"exp": time.time() + seconds, "sub": "u42", "pushsvc": {"publish": ["t"], "subscribe": ["t"]}}
    return jwt.encode(claims, SECRET, "HS256")


@on_a_loop
async def test_another_token_is_asked_for_when_one_is_refused(stack):
    stack.environment["PUSHSVC_JWT_KEY"] = SECRET
    stack.start_web()
    given = []

    async def fresh():
        await asyncio.sleep(0)
        given.append(token(600 if given else -600))
        return given[-1]

    async with AsyncClient(stack.url, token=fresh) as client:
        assert (await client.publish("t", {"x": 1}))["last_offset"] == 1
        assert (await anext(client.events("t", last_id="earliest"))).id
        assert len(given) == 2
    async with AsyncClient(stack.url) as client:
        with pytest.raises(ClientError, match="401"):
            await client.publish("t", {"x": 2})


@pytest.mark.parametrize("kind", ["nginx", "caddy"])
@on_a_loop
async def test_clients_reach_a_server_behind_tls_and_a_prefix(shared_server, tmp_path, topic, kind):
    site = await asyncio.to_thread(SiteProxy, kind, tmp_path, [shared_server.port])
    try:
        trusted = ssl.create_default_context(cafile=str(site.certificate))
        for connect in CLIENTS.values():
            async with connect(site.url, tls=trusted) as client:
                for _ in range(3):  # over one connection
                    last = (await client.publish(topic, {"x": 1}))["last_offset"]
                async with client.watch(f"events/{topic}", last_id="earliest") as watch:
                    async for change in watch:
                        if change.data["$offset"] == last:
                            break
            async with connect(site.url, patience=0) as client:
                with pytest.raises(ClientError, match="certificate verify failed"):
                    await client.publish(topic, {"x": 1})
    finally:
        site.stop()
