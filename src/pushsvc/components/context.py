"""What handlers see: the event, and a context for what they do with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import orjson

from pushsvc.alerts.rule import ALERTS_TOPIC
from pushsvc.components.messages import Emitted, Timer, timer_id
from pushsvc.components.registry import Components, Function
from pushsvc.errors import InvalidTopic
from pushsvc.event.model import DEFAULT_TYPE, Limits
from pushsvc.event.validator import EventValidator, InvalidEvent
from pushsvc.topic import check_topic, is_dead, matches

MOST_EMITS, MOST_EMITTED_BYTES = 100, 1_000_000  # of one event
MOST_STATE_BYTES = 65_536  # of one key
MOST_TIMER_BYTES, LONGEST_DELAY = 8_192, 366 * 86_400.0
_LIMITS = Limits()


class HandledEvent(msgspec.Struct):
    """An event of the log. ``time`` and ``arrival`` are in ms; ``data`` has the members that are no attributes."""

    topic: str
    offset: int
    arrival: int
    id: str | None
    type: str
    time: int
    key: str | None
    data: dict[str, Any]

    @classmethod
    def read(cls, topic: str, offset: int, arrival: int, line: bytes) -> HandledEvent:
        data = orjson.loads(line)
        take = data.pop
        return cls(
            topic, offset, arrival, take("id", None), take("type", DEFAULT_TYPE), take("time", arrival),
            take("key", None), data,
        )  # fmt: skip

    def __getitem__(self, name: str) -> Any:
        return self.data[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self.data.get(name, default)


class State:
    """The state of a key: an object of JSON, and its stored form (b"": there is none)."""

    __slots__ = ("stored", "value")

    def __init__(self, stored: bytes) -> None:
        self.stored = stored
        self.value: dict[str, Any] | None = None

    def read(self) -> dict[str, Any]:
        if self.value is None:
            self.value = orjson.loads(self.stored) if self.stored else {}
        return self.value

    def changed(self) -> bytes | None:
        """Return the new stored form; None if it is the old one. Raise ValueError if it cannot be stored."""
        if self.value is None:
            return None
        try:
            stored = orjson.dumps(self.value) if self.value else b""
        except TypeError as error:
            raise ValueError(f"ctx.state cannot be stored: {error}") from None
        if len(stored) > MOST_STATE_BYTES:
            raise ValueError(f"ctx.state takes {len(stored)} bytes, at most {MOST_STATE_BYTES} are allowed")
        return None if stored == self.stored else stored


class Context:
    """What a handler does with one event. It takes effect when the handler has returned, once.

    ``now`` (ms) is the time of Redis when the event was read, ``attempt`` counts from 1.
    """

    def __init__(
        self, components: Components, group: str, event: HandledEvent | None, topic: str, key: str | None,
        *, now: int, attempt: int, state: Callable[[], State], timers: int,
    ) -> None:  # fmt: skip
        self.group, self.event, self.topic, self.key = group, event, topic, key
        self.now, self.attempt = now, attempt
        self._components = components
        self._find_state = state
        self._room = timers
        self._bytes = 0
        self.found_state: State | None = None
        self.emitted: list[Emitted] = []
        self.timers: dict[bytes, Timer | None] = {}
        self.replies: tuple[str, ...] = ()  # of the handler that runs
        self.refused_replies = 0

    @property
    def state(self) -> dict[str, Any]:
        """The state of the event's key in this topic and group: values of JSON by name, empty at first."""
        if self.found_state is None:
            self.found_state = self._find_state()
        return self.found_state.read()

    def emit(self, topic: str, event: Mapping[str, Any]) -> None:
        """Publish an event: ``id``, ``type``, ``time``, ``key`` and data. Raise ValueError for an invalid one."""
        try:
            check_topic(topic)
        except InvalidTopic as error:
            raise ValueError(error.detail) from None
        if is_dead(topic) or topic == ALERTS_TOPIC:
            raise ValueError(f"only the server itself publishes to {topic}")
        if len(self.emitted) >= MOST_EMITS:
            raise ValueError(f"more than {MOST_EMITS} events for one event")
        try:
            valid = EventValidator(self.now, _LIMITS).validate(dict(event))
            line = valid.encode()
        except InvalidEvent as error:
            raise ValueError(f"{error.field}: {error.detail}" if error.field else error.detail) from None
        except TypeError as error:
            raise ValueError(f"the event is not JSON: {error}") from None
        self._bytes += len(line)
        if self._bytes > MOST_EMITTED_BYTES:
            raise ValueError(f"more than {MOST_EMITTED_BYTES} bytes of events for one event")
        self.emitted.append(Emitted(topic, line, valid.id or "", valid.time))

    def reply(self, event: Mapping[str, Any]) -> bool:
        """Publish an event to the topic that the handled event names in ``reply_to``; return whether it names one that
        the handler declared in ``replies``. Raise as ``emit``."""
        topic = None if self.event is None else self.event.get("reply_to")
        if topic is None:
            return False
        allowed = isinstance(topic, str) and any(matches(pattern, topic) for pattern in self.replies)
        if allowed:
            try:
                check_topic(topic)
            except InvalidTopic:
                allowed = False
        if not allowed or is_dead(topic) or topic == ALERTS_TOPIC:
            self.refused_replies += 1
            return False
        self.emit(topic, event)
        return True

    def call_later(self, seconds: float, timer: Function, *, name: str | None = None, **data: Any) -> None:
        """Call a function that is registered with ``on.timer`` after a time, with this key's context and ``data``.

        It takes the place of a timer of the same key and ``name``, which is the function's by default.
        """
        if self._components.timers.get(timer.__name__) is not timer:
            raise ValueError(f"{timer.__name__} is not registered: decorate it with @on.timer")
        if not 0 <= seconds <= LONGEST_DELAY:
            raise ValueError(f"a delay is from 0 to {LONGEST_DELAY:.0f} seconds")
        name = name or timer.__name__
        if len(name) > _LIMITS.name:
            raise ValueError(f"the name of a timer has at most {_LIMITS.name} characters")
        try:
            size = len(orjson.dumps(data))
        except TypeError as error:
            raise ValueError(f"the data of a timer is not JSON: {error}") from None
        if size > MOST_TIMER_BYTES:
            raise ValueError(f"the data of a timer takes {size} bytes, at most {MOST_TIMER_BYTES} are allowed")
        if len(self.timers) >= self._room:
            raise ValueError("the partition of this topic has as many timers as allowed")
        found = Timer(self.topic, self.key, name, self.now + int(seconds * 1_000), timer.__name__, data)
        self.timers[found.id] = found

    def cancel(self, name: str | Function) -> None:
        """Cancel the timer of this key with a name, or with the name of a function."""
        chosen = name if isinstance(name, str) else name.__name__
        self.timers[timer_id(self.topic, self.key, chosen)] = None
