"""What the methods of ``AsyncClient`` return that is more than an answer: as in ``results``, for ``async for``."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from pushsvc_client.sse import Message
from pushsvc_client.state import Change, State, States
from pushsvc_client.tables import events_table, series_rows, series_table

if TYPE_CHECKING:
    from pandas import DataFrame

T = TypeVar("T")
Answer = Callable[[], Awaitable[Mapping[str, Any]]]


class AsyncStream(AsyncIterator[T], Generic[T]):
    """What a stream has, without end. It has a connection until it is closed: ``async with`` does that."""

    def __init__(self, items: AsyncGenerator[T]) -> None:
        self._items = items

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def __anext__(self) -> T:
        return await anext(self._items)

    async def aclose(self) -> None:
        """Close the stream."""
        await self._items.aclose()


class AsyncMessages(AsyncStream[Message]):
    """As ``Messages``."""

    def __init__(
        self, messages: AsyncGenerator[Message], answer: Answer, table: Callable[[Mapping[str, Any]], DataFrame]
    ) -> None:
        super().__init__(messages)
        self._answer, self._table = answer, table

    async def df(self) -> DataFrame:
        """As ``Messages.df``."""
        return self._table(await self._answer())


class AsyncWatch(AsyncStream[Change]):
    """As ``Watch``."""

    def __init__(self, changes: AsyncGenerator[Change], states: States) -> None:
        super().__init__(changes)
        self.states: Mapping[str, State] = states
        self.state = next(iter(states.values()))


class AsyncSeries:
    """As ``Series``."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncGenerator[dict[str, Any]]:
        for row in series_rows(await self._answer()):
            yield row

    async def df(self) -> DataFrame:
        """As ``Series.df``."""
        return series_table(await self._answer())


class AsyncHistory:
    """As ``History``."""

    def __init__(self, events: Callable[[], AsyncGenerator[dict[str, Any]]]) -> None:
        self._events = events

    def __aiter__(self) -> AsyncGenerator[dict[str, Any]]:
        return self._events()

    async def df(self) -> DataFrame:
        """As ``History.df``."""
        return events_table([event async for event in self])
