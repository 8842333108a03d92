"""The same test for both Python clients: the blocking one runs in threads, behind the methods of the other."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from pushsvc_client import AsyncClient, Client
from support.waiting import DEADLINE

_ITERATED = frozenset({"events", "stats", "latest", "stream", "watch", "history", "series", "export"})
_PLAIN = frozenset({"on"})
_END = object()

Connect = Callable[..., Any]


def connect_async(url: str, **options: Any) -> AsyncClient:
    return AsyncClient(url, **options)


async def in_thread(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Return what a function returns in a thread that no test waits for when it fails."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is None:
            done.set_result(result)
        else:
            done.set_exception(error)

    def work() -> None:
        result, error = None, None
        try:
            result = function(*arguments, **options)
        except BaseException as raised:  # noqa: BLE001
            error = raised
        with suppress(RuntimeError):  # the test has ended
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=work, daemon=True).start()
    return await done


class InThreads:
    """A blocking client with the methods of the asynchronous one."""

    def __init__(self, url: str, **options: Any) -> None:
        self._client = Client(url, **options)

    async def __aenter__(self) -> InThreads:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._client.close()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if name in _PLAIN:
            return method
        if name in _ITERATED:
            return lambda *arguments, **options: _Iterated(method(*arguments, **options))
        return functools.partial(in_thread, method)


class _Iterated:
    def __init__(self, items: Any) -> None:
        self._items = items
        self._iterator: Any = None

    async def __aenter__(self) -> _Iterated:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __aiter__(self) -> _Iterated:
        self._iterator = iter(self._items)
        return self

    async def __anext__(self) -> Any:
        if self._iterator is None:
            self._iterator = iter(self._items)
        item = await in_thread(next, self._iterator, _END)
        if item is _END:
            raise StopAsyncIteration
        return item

    def __getattr__(self, name: str) -> Any:
        if name == "df":
            return functools.partial(in_thread, self._items.df)
        return getattr(self._items, name)

    async def aclose(self) -> None:
        await in_thread(self._items.close)


CLIENTS: dict[str, Connect] = {"Client": InThreads, "AsyncClient": connect_async}


def run_loop(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Return the result of a coroutine on a loop of its own: in a thread, as a browser's loop may run in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an asynchronous test on a loop of its own."""

    @functools.wraps(test)
    def run(*arguments: Any, **fixtures: Any) -> None:
        run_loop(asyncio.wait_for(test(*arguments, **fixtures), 4 * DEADLINE))

    return run


async def until_async(look: Callable[[], Awaitable[Any] | Any]) -> Any:
    """Return the first true value of ``look``; fail after the deadline."""
    async with asyncio.timeout(DEADLINE):
        while True:
            found = look()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.01)
