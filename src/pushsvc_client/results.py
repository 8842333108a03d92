"""What the methods of ``Client`` return that is more than an answer."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from pushsvc_client.sse import Message
from pushsvc_client.state import Change, State, States
from pushsvc_client.tables import events_table, series_rows, series_table

if TYPE_CHECKING:
    from pandas import DataFrame

T = TypeVar("T")
Answer = Callable[[], Mapping[str, Any]]


class Stream(Iterator[T], Generic[T]):
    """What a stream has, without end."""

    def __init__(self, items: Generator[T]) -> None:
        self._items = items

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __next__(self) -> T:
        return next(self._items)

    def close(self) -> None:
        """Close the stream."""
        self._items.close()


class Messages(Stream[Message]):
    """The messages of a stream, or with ``df`` what the server has at one moment."""

    def __init__(
        self, messages: Generator[Message], answer: Answer, table: Callable[[Mapping[str, Any]], DataFrame]
    ) -> None:
        super().__init__(messages)
        self._answer, self._table = answer, table

    def df(self) -> DataFrame:
        """Return a DataFrame of the present state; raise ClientError.

        Of statistics it has a row for each key and field, and the end of the window (UTC) as index ``time``; with
        ``window="*"`` the first column is the window. Of newest events it has a row for each, and the key as index.
        """
        return self._table(self._answer())


class Watch(Stream[Change]):
    """The changes of subscriptions on one stream. ``states`` has the state of each by its text, and ``state`` that of
    the first; a state takes a message when its change is taken from the iterator."""

    def __init__(self, changes: Generator[Change], states: States) -> None:
        super().__init__(changes)
        self.states: Mapping[str, State] = states
        self.state = next(iter(states.values()))


class Series:
    """Statistics of one row over time. Each use asks the server anew."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield for each time, a datetime, the statistics by their names, None where there is none; raise
        ClientError."""
        yield from series_rows(self._answer())

    def df(self) -> DataFrame:
        """Return a DataFrame with a row for each time (UTC), its index, and a column for each statistic, NaN where
        there is none. ``attrs`` has the other members of the answer: ``from``, ``step`` and more. Raise ClientError."""
        return series_table(self._answer())


class History:
    """The selected events of a topic, the oldest first. Each iteration asks the server anew."""

    def __init__(self, events: Callable[[], Iterator[dict[str, Any]]]) -> None:
        self._events = events

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the events in their public form; raise ClientError, also after some if the answer is cut."""
        return self._events()

    def df(self) -> DataFrame:
        """Return a DataFrame with a row for each event, its time (UTC) as index, and a column for each other member.

        Lists and objects stay as they are. Raise ClientError.
        """
        return events_table(self)
