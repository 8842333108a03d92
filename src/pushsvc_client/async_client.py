"""The client of one server on asyncio, with the methods of ``Client``, which explains them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from functools import partial
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

from pushsvc_client.aio import AsyncioNetwork
from pushsvc_client.async_buffers import AsyncBuffer
from pushsvc_client.async_progress import AsyncProgress
from pushsvc_client.async_results import AsyncHistory, AsyncMessages, AsyncSeries, AsyncStream, AsyncWatch
from pushsvc_client.batches import MAX_EVENTS, Missing
from pushsvc_client.calls import AsyncEvents, Calls, Handler, Handlers
from pushsvc_client.credentials import AsyncToken
from pushsvc_client.following import OnOutage
from pushsvc_client.session import JSON, Parameter
from pushsvc_client.sse import Message
from pushsvc_client.state import States
from pushsvc_client.tables import latest_table, statistics_table, to_table

if TYPE_CHECKING:
    from ssl import SSLContext

    from pandas import DataFrame


class AsyncClient:
    """As ``Client``, for the tasks of an event loop. ``token`` may be an asynchronous function. Requests use at most
    100 connections at a time, and each stream one more."""

    def __init__(
        self, url: str, *, token: AsyncToken | None = None, timeout: float = 10.0, patience: float = 10.0,
        on_outage: OnOutage | None = None, tls: SSLContext | None = None,
    ) -> None:  # fmt: skip
        self.url = url
        self._calls = Calls(
            url, AsyncioNetwork(), token=token, timeout=timeout, patience=patience, on_outage=on_outage, tls=tls
        )
        self._session = self._calls.session
        self._handlers = Handlers()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the idle connections; a stream is closed with its iterator."""
        self._session.close()

    async def publish(
        self,
        topic: str,
        events: AsyncEvents | bytes,
        content_type: str = JSON,
        *,
        repeatable: bool | None = None,
        missing: Missing = "error",
        batch_size: int = MAX_EVENTS,
        ids: bool = False,
        **query: Parameter,
    ) -> dict[str, Any]:
        """As ``Client.publish``; ``events`` may also be an asynchronous iterable of mappings.

        If the task is cancelled, requests that were answered are stored; of the one in flight nothing is known.
        """
        return await self._calls.publish(
            topic, events, content_type, repeatable=repeatable, missing=missing, batch_size=batch_size, ids=ids,
            query=query,
        )  # fmt: skip

    def buffer(self, *, size: int = 10_000, missing: Missing = "error") -> AsyncBuffer:
        """As ``Client.buffer``, for ``async with`` and ``await buffer.publish(…)``."""
        return AsyncBuffer(partial(self.publish, repeatable=True), size=size, missing=missing)

    async def correct(self, topic: str, event: str | int, changes: Mapping[str, Any]) -> dict[str, Any]:
        """As ``Client.correct``."""
        return await self._calls.correct(topic, event, changes)

    async def delete_event(self, topic: str, event: str | int, *, erase: bool = False) -> dict[str, Any]:
        """As ``Client.delete_event``."""
        return await self._calls.delete_event(topic, event, erase=erase)

    async def event(self, topic: str, event: str | int) -> dict[str, Any]:
        """As ``Client.event``."""
        return await self._calls.event(topic, event)

    def events(self, topic: str, *, last_id: str = "", **query: Parameter) -> AsyncStream[Message]:
        """As ``Client.events``."""
        return self._follow(self._session.path(topic, "events", query), last_id, query)

    def stats(self, topic: str, *, last_id: str = "", **query: Parameter) -> AsyncMessages:
        """As ``Client.stats``; ``await`` its ``df()``."""
        path = self._session.path(topic, "stats", query)
        return AsyncMessages(
            self._calls.follow(path, last_id, query), partial(self._calls.read, path), statistics_table
        )

    def series(self, topic: str, **query: Parameter) -> AsyncSeries:
        """As ``Client.series``."""
        return AsyncSeries(partial(self._calls.read, self._session.path(topic, "stats/series", query)))

    def latest(self, topic: str, *, last_id: str = "", **query: Parameter) -> AsyncMessages:
        """As ``Client.latest``; ``await`` its ``df()``."""
        path = self._session.path(topic, "latest", query)
        return AsyncMessages(self._calls.follow(path, last_id, query), partial(self._calls.read, path), latest_table)

    def progress(
        self, topic: str, total: float | None = None, *, key: str = "progress", every: float = 0.5, **fields: Any
    ) -> AsyncProgress:
        """As ``Client.progress``, for ``async with``; ``update`` and ``set`` are called without ``await``."""
        note = self._calls.outage().note
        return AsyncProgress(partial(self.publish, topic), total, key=key, every=every, fields=fields, on_outage=note)

    async def table(self, topic: str, **query: Parameter) -> DataFrame:
        """As ``Client.table``."""
        return to_table(await self._calls.read(self._session.path(topic, "stats", query)))

    async def topic(self, topic: str) -> dict[str, Any]:
        """As ``Client.topic``."""
        return await self._calls.read(self._session.topic_path(topic))

    async def topics(self, **query: Parameter) -> list[dict[str, Any]]:
        """As ``Client.topics``."""
        topics: list[dict[str, Any]] = (await self._calls.read(self._session.topics_path(query)))["topics"]
        return topics

    def history(self, topic: str, **query: Parameter) -> AsyncHistory:
        """As ``Client.history``."""
        return AsyncHistory(partial(self._calls.history, topic, query))

    def export(self, topic: str, format: str, **query: Parameter) -> AsyncGenerator[bytes]:
        """As ``Client.export``."""
        return self._calls.export(topic, format, query)

    def stream(
        self, *, events: Sequence[str] = (), stats: Sequence[str] = (), subs: Sequence[str] = (), last_id: str = "",
        **query: Parameter,
    ) -> AsyncStream[Message]:  # fmt: skip
        """As ``Client.stream``."""
        path = self._session.stream_path({"sub": subs, "events": events, "stats": stats, **query})
        return self._follow(path, last_id, query)

    def _follow(self, path: str, last_id: str, query: Mapping[str, Parameter]) -> AsyncStream[Message]:
        return AsyncStream(self._calls.follow(path, last_id, query))

    def watch(self, *subscriptions: str, last_id: str = "") -> AsyncWatch:
        """As ``Client.watch``, for ``async with`` and ``async for``."""
        states = States(subscriptions)
        return AsyncWatch(self._calls.changes(states, last_id), states)

    def on(self, topic: str, **query: Parameter) -> Callable[[Handler], Handler]:
        """As ``Client.on``; the functions may be asynchronous. One event after another is handled."""
        return self._handlers.on(topic, query)

    async def run(self, *, last_id: str = "") -> None:
        """As ``Client.run``."""
        async with self.watch(*self._handlers, last_id=last_id) as watch:
            async for change in watch:
                for handle in self._handlers.of(change):
                    handled = handle(change.data)
                    if isawaitable(handled):
                        await handled
