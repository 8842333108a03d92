"""The progress of a job that runs on asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self

from pushsvc_client.progress import DONE, FAILED, FAULTS, RUNNING, Bar, is_refusal

Send = Callable[[dict[str, Any]], Awaitable[object]]  # publishes an event; raises ClientError


class AsyncProgress(Bar):
    """As ``Progress``, from a task of its own, which begins with ``async with`` or the first change."""

    def __init__(
        self, send: Send, total: float | None, *, key: str, every: float, fields: Mapping[str, Any],
        on_outage: Callable[[str | None], None],
    ) -> None:  # fmt: skip
        super().__init__(total, key=key, every=every, fields=fields)
        self._send, self._on_outage = send, on_outage
        self._changed, self._ended = asyncio.Event(), asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._notify()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose(DONE if kind is None else FAILED)

    def update(self, by: float = 1, **fields: Any) -> None:
        """Count ``by`` more as done. ``fields`` are members that this event and all later ones have, too."""
        self._set(self._done + by, fields)

    def set(self, done: float, **fields: Any) -> None:
        """Note how much is done altogether; ``fields`` as in ``update``."""
        self._set(done, fields)

    async def aclose(self, state: str = DONE, **fields: Any) -> None:
        """Publish the last event, with ``state``, and wait for it. Further calls do nothing."""
        self._end(state, fields)
        if self._task is not None:
            await self._task

    def _notify(self) -> None:
        self._changed.set()
        if self.state != RUNNING:
            self._ended.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"progress {self._key}")

    async def _run(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            event, ended = self._next()
            try:
                await self._send(event)
                self._on_outage(None)
            except FAULTS as error:
                self.error = error
                self._on_outage(str(error))
            if ended or is_refusal(self.error):
                return
            try:
                async with asyncio.timeout(self._every):
                    await self._ended.wait()
            except TimeoutError:
                pass
