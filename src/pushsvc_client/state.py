"""The state of a subscription, which equals the server's after each of its messages."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from operator import itemgetter
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from pushsvc_client.session import Parameter

RowId = tuple[str | None, ...]

_RANKED = re.compile(r"[?&]top=")
_SHAPED = re.compile(r"[?&]shape=")


def subscription(kind: str, topic: str, **query: Parameter) -> str:
    """Return the text of a subscription: ``kind`` is ``events``, ``stats`` or ``latest``."""
    text = f"{kind}/{quote(topic, safe='*>')}"
    return f"{text}?{urlencode(query, doseq=True)}" if query else text


class Change(NamedTuple):
    """A message of a subscription, after its state has taken it.

    ``name`` is ``event``, ``corrected`` or ``deleted`` of events, ``snapshot`` or ``update`` of statistics and newest
    events, and ``reset`` of all. ``cursor`` resumes the whole stream behind it.
    """

    subscription: str
    name: str
    data: dict[str, Any]
    state: State
    cursor: str


class Window(NamedTuple):
    """The rows of one window of a topic. ``frame`` has the other members of the last frame: ``from``, ``to``, …"""

    frame: dict[str, Any]
    rows: dict[RowId, list[Any]]


class State:
    """What a subscription has now: the rows of statistics, or the newest events, each a mapping. Events have none."""

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(())

    def apply(self, name: str, data: Mapping[str, Any]) -> None:
        """Take a message."""


class StatisticsState(State):
    """Rows of statistics: ``topic``, ``window`` and the columns. ``windows`` has the frames, by topic and window."""

    def __init__(self, *, ranked: bool = False) -> None:
        self.windows: dict[tuple[str, str], Window] = {}
        self._ranked = ranked  # updates have all rows, in order

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for window in self.windows.values():
            for row in window.rows.values():
                yield _named(window.frame, row)

    def get(self, key: str | None = None, field: str | None = None) -> dict[str, Any] | None:
        """Return the row of a key and field, of the first window that has one; totals have None."""
        for window in self.windows.values():
            for row_id, row in window.rows.items():
                if row_id[:2] == (key, field):
                    return _named(window.frame, row)
        return None

    def apply(self, name: str, data: Mapping[str, Any]) -> None:
        topic = data["topic"]
        if name == "reset":
            every = "*" in topic or ">" in topic  # of a pattern the topics are unknown
            self.windows = {at: window for at, window in self.windows.items() if not every and at[0] != topic}
            return
        place = topic, data["window"]
        known = self.windows.get(place)
        rows = known.rows if known and name == "update" and not self._ranked else {}
        columns = data["columns"]
        for gone in data.get("gone", ()):
            rows.pop(tuple(gone), None)
        size = 3 if columns[-1] == "by" else 2
        by = len(columns) - 1
        for row in data["data"]:
            rows[(*row[:2], row[by])[:size]] = row
        frame = {member: value for member, value in data.items() if member not in ("data", "gone")}
        self.windows[place] = Window(frame, rows)


class LatestState(State):
    """The newest event of each key, in the order of their offsets."""

    def __init__(self) -> None:
        self._events: dict[str, dict[str, Any]] = {}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(sorted(self._events.values(), key=itemgetter("$offset")))

    def get(self, key: str) -> dict[str, Any] | None:
        """Return the newest event of a key."""
        return self._events.get(key)

    def apply(self, name: str, data: Mapping[str, Any]) -> None:
        if name != "update":
            self._events = {}
        for key in data.get("gone", ()):
            self._events.pop(key, None)
        for event in data.get("events", ()):
            self._events[event["key"]] = event


def _named(frame: Mapping[str, Any], row: list[Any]) -> dict[str, Any]:
    return {"topic": frame["topic"], "window": frame["window"], **dict(zip(frame["columns"], row, strict=True))}


def new_state(text: str) -> State:
    """Return the empty state of a subscription."""
    if text.startswith("stats/"):
        return StatisticsState(ranked=bool(_RANKED.search(text)))
    return LatestState() if text.startswith("latest/") else State()


class States(dict[str, State]):
    """The state of each subscription of a stream, by its text."""

    def __init__(self, subscriptions: tuple[str, ...]) -> None:
        if not subscriptions:
            raise ValueError("a watch has at least one subscription, such as 'stats/flights?window=1m'")
        super().__init__((text, new_state(text)) for text in subscriptions)
        if len(self) < len(subscriptions):
            raise ValueError("a watch has each subscription once")
        if any(map(_SHAPED.search, subscriptions)):
            raise ValueError("a watch takes no shape: its states name the columns of rows")

    def take(self, event: str, data: dict[str, Any], cursor: str) -> Change | None:
        """Return the change that a message of the stream makes, None if it is of no subscription."""
        text = data.pop("$sub", None) or data.pop("sub", None)
        state = self.get(text) if isinstance(text, str) else None
        if state is None:  # a heartbeat
            return None
        state.apply(event, data)
        return Change(text, "event" if event == "message" else event, data, state, cursor)
