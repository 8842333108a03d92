"""Reads a stream with a Python client and prints a JSON line for each message: watch.py CLIENT URL [LAST-EVENT-ID]."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable, Iterator

Message = dict[str, str]


def messages_of(lines: Iterable[str]) -> Iterator[Message]:
    """Yield a message at each blank line, as a plain reader of lines does: also one without data."""
    message = {"id": "", "event": "", "data": ""}
    for line in lines:
        name, _, value = line.partition(":")
        if not line:
            yield dict(message)
            message |= {"event": "", "data": ""}
        elif name in message:
            message[name] = value.removeprefix(" ")


def requests_lines(url: str, headers: dict[str, str]) -> Iterator[Message]:
    import requests

    with requests.get(url, headers=headers, stream=True) as response:
        yield from messages_of(response.iter_lines(decode_unicode=True))


def sseclient_py(url: str, headers: dict[str, str]) -> Iterator[Message]:
    import requests
    import sseclient

    for event in sseclient.SSEClient(requests.get(url, headers=headers, stream=True)).events():
        yield {"id": event.id or "", "event": event.event, "data": event.data}


def httpx_sse(url: str, headers: dict[str, str]) -> Iterator[Message]:
    import httpx
    from httpx_sse import connect_sse

    with httpx.Client(timeout=None) as client, connect_sse(client, "GET", url, headers=headers) as source:
        for event in source.iter_sse():
            yield {"id": event.id, "event": event.event, "data": event.data}


async def aiohttp_sse(url: str, headers: dict[str, str]) -> None:
    from aiohttp_sse_client2.client import EventSource

    async with EventSource(url, headers=headers) as source:
        async for event in source:
            show({"id": event.last_event_id, "event": event.type, "data": event.data})


def show(message: Message) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    name, url, *cursor = sys.argv[1:]
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": cursor[0]} if cursor else {})
    if name == "aiohttp-sse-client2":
        asyncio.run(aiohttp_sse(url, headers))
    else:
        clients = {"requests": requests_lines, "sseclient-py": sseclient_py, "httpx-sse": httpx_sse}
        for message in clients[name](url, headers):
            show(message)
