"""A buffer of single events on asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self

from pushsvc_client.batches import Missing
from pushsvc_client.buffers import Waiting

Send = Callable[[str, bytes], Awaitable[object]]  # publishes the array of a topic; raises ClientError


class AsyncBuffer:
    """As ``Buffer``, from a task of its own, which begins with ``async with``. If its task is cancelled, what waits is
    lost."""

    def __init__(self, send: Send, *, size: int, missing: Missing) -> None:
        self._send = send
        self._waiting = Waiting(size, missing)
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="pushsvc buffer")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self.aclose()
        except Exception:
            if kind is None:
                raise

    async def publish(self, topic: str, event: Mapping[str, Any]) -> None:
        """Leave an event to the task; raise InvalidValue, or the ClientError of earlier events."""
        if self._task is None:
            raise ValueError("the buffer is not open: use it with 'async with'")
        self._waiting.check()
        body = self._waiting.encode(event)
        async with self._changed:
            await self._changed.wait_for(self._waiting.has_room)
            self._waiting.put(topic, body)
            self._changed.notify_all()

    async def flush(self) -> None:
        """Return when everything is published; raise ClientError."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._waiting.events)
            self._waiting.check()

    async def aclose(self) -> None:
        """Do the same, and end the task."""
        task, self._task = self._task, None
        if task is None:
            return
        try:
            await self.flush()
        finally:
            task.cancel()

    async def _run(self) -> None:
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._waiting.events)
                batch = self._waiting.take()
            assert batch is not None
            error: Exception | None = None
            try:
                await self._send(batch.topic, batch.body)
            except Exception as raised:  # noqa: BLE001  # also of a token function; the user gets it
                error = raised
            async with self._changed:
                self._waiting.done(batch, error)
                self._changed.notify_all()
