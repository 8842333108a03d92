"""What one subscriber has received, and where that breaks the contract."""

from __future__ import annotations

import json
from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from typing import Any

from pushsvc.sse import Message
from pushsvc.topic import matches
from support.latest import Board
from support.oracle import Statistics, summarize
from support.stack import Table

SAMPLES = 5
Frame = tuple[Mapping[str, Any], Statistics]


class Received:
    """``events`` has the marks of a topic's events by offset, ``tables`` the rows by (topic, window), ``boards`` the
    newest events by topic.

    ``faults`` lists violations of the contract.
    """

    def __init__(self) -> None:
        self.events: dict[str, dict[int, str]] = {}
        self.tables: dict[tuple[str, str], Table] = {}
        self.samples: dict[tuple[str, str], deque[Frame]] = {}
        self.boards: defaultdict[str, Board] = defaultdict(Board)
        self.faults: list[str] = []
        self.resets: Counter[str] = Counter()
        self.messages = 0
        self._last: dict[str, int] = {}
        self._rewound: set[str] = set()
        self._doubtful: dict[str, dict[int, str]] = {}  # events that must arrive again after a reset

    def take(self, message: Message) -> None:
        if message.event == "heartbeat":
            return  # it has moved the cursor
        self.messages += 1
        data = json.loads(message.data)
        if message.event == "reset":
            self._take_reset(data)
        elif "$topic" in data:
            self._take_event(data["$topic"], data["$offset"], data["mark"])
        elif "window" in data:
            self._take_frame(message.event, data)
        else:
            self.boards[data["topic"]].apply(message.event, data)

    def _take_reset(self, data: Mapping[str, Any]) -> None:
        """Forget all topics of a reset. It names a pattern if topics below it were deleted."""
        self.resets[data["reason"]] += 1
        if data["topic"] in self.boards:
            self.boards[data["topic"]].apply("reset", data)
        self._rewound.update(topic for topic in (*self.events, data["topic"]) if matches(data["topic"], topic))
        for place in [place for place in self.tables if matches(data["topic"], place[0])]:
            del self.tables[place], self.samples[place]

    def _take_event(self, topic: str, offset: int, mark: str) -> None:
        seen = self.events.setdefault(topic, {})
        if topic in self._rewound:
            self._rewound.discard(topic)
            self._rewind(topic, offset)
        following = self._last.get(topic, 0) + 1
        if offset < following:
            self.faults.append(f"{topic}: {offset} was repeated without a reset where {following} follows")
        if offset > following:
            self.faults.append(f"{topic}: {offset} arrived where {following} follows")
        seen[offset] = mark
        self._last[topic] = offset

    def _rewind(self, topic: str, offset: int) -> None:
        """Doubt the known events from an offset on: after a reset the log follows from there, at most its last 1,000
        events, and may differ.

        If another reset interrupts that, the events before the new offset are confirmed: a restarted Redis loses at
        most its last second.
        """
        seen, doubtful = self.events[topic], self._doubtful.setdefault(topic, {})
        doubtful |= {known: seen.pop(known) for known in [known for known in seen if known >= offset]}
        for known in [known for known in doubtful if known < offset]:
            seen.setdefault(known, doubtful.pop(known))
        self._last[topic] = min(offset - 1, max(seen, default=0))

    def _take_frame(self, event: str, data: Mapping[str, Any]) -> None:
        place = data["topic"], data["window"]
        table = self.tables.setdefault(place, Table())
        if data["offset"] < table.offset:
            self.faults.append(f"{place}: offset {data['offset']} behind {table.offset}")
            table.offset = 0
        table.apply(event, dict(data))
        if data["from"] is not None:
            self.samples.setdefault(place, deque(maxlen=SAMPLES)).append((data, summarize(table.rows)))
        else:
            self.samples.setdefault(place, deque(maxlen=SAMPLES))
