"""A queue and a generator per client on sse-starlette, as its manual shows: ``uvicorn site_starlette:app``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

queues: set[asyncio.Queue[str]] = set()


async def subscribe(request: Request) -> EventSourceResponse:
    queue: asyncio.Queue[str] = asyncio.Queue()

    async def messages() -> AsyncIterator[dict[str, str]]:
        queues.add(queue)
        try:
            while True:
                yield {"data": await queue.get()}
        finally:
            queues.discard(queue)

    return EventSourceResponse(messages())


async def publish(request: Request) -> Response:
    message = (await request.body()).decode()
    for queue in queues:
        queue.put_nowait(message)
    return Response(status_code=202)


app = Starlette(routes=[Route("/sub", subscribe), Route("/pub", publish, methods=["POST"])])
