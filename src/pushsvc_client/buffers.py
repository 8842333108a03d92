"""Buffers of single events, which are published together."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

from pushsvc_client.batches import MAX_BYTES, MAX_EVENTS, EventEncoder, Missing

Send = Callable[[str, bytes], object]  # publishes the array of a topic; raises ClientError


class Batch(NamedTuple):
    """Events of one topic as a JSON array."""

    topic: str
    body: bytes
    events: int


class Waiting:
    """Events that wait, by topic, in their order. All have ids: a batch may be sent twice."""

    def __init__(self, size: int, missing: Missing) -> None:
        if size < 1:
            raise ValueError(f"size={size!r} must be at least 1")
        self.error: Exception | None = None
        self.events = 0  # that wait or are being sent
        self._size = size
        self._encode = EventEncoder(missing, ids=True).encode
        self._number = 0
        self._topics: dict[str, list[bytes]] = {}

    def encode(self, event: Mapping[str, Any]) -> bytes:
        """Return an event as JSON; raise InvalidValue."""
        self._number += 1
        return self._encode(self._number, event)[0]

    def has_room(self) -> bool:
        """Return whether another event may wait."""
        return self.events < self._size

    def put(self, topic: str, body: bytes) -> None:
        """Let an event wait."""
        self.events += 1
        self._topics.setdefault(topic, []).append(body)

    def take(self) -> Batch | None:
        """Return the events of the topic that waits longest, as many as a request takes."""
        for topic, bodies in self._topics.items():
            size = number = 0
            for body in bodies[:MAX_EVENTS]:
                size += len(body) + 1
                if number and size > MAX_BYTES:
                    break
                number += 1
            del self._topics[topic]
            if number < len(bodies):
                self._topics[topic] = bodies[number:]
            return Batch(topic, b"[" + b",".join(bodies[:number]) + b"]", number)
        return None

    def done(self, batch: Batch, error: Exception | None) -> None:
        """Note that a batch was published, or why it was not."""
        self.events -= batch.events
        self.error = self.error or error

    def check(self) -> None:
        """Raise the first error since the last call."""
        error, self.error = self.error, None
        if error is not None:
            raise error


class Buffer:
    """Publishes events from a thread of its own. ``publish`` returns at once, unless ``size`` events wait already.

    A request that fails is repeated as those of ``Client.publish``. Events that cannot be published are lost, and the
    next call of a method raises the ClientError. The end of a ``with`` waits for what is in the buffer. A process that
    is forked begins with an empty buffer: what waits stays with the parent.
    """

    def __init__(self, send: Send, *, size: int, missing: Missing) -> None:
        self._send, self._size, self._missing = send, size, missing
        self._closed = False
        self._restart()
        _buffers.add(self)

    def _restart(self) -> None:
        # A child must not use the ids of its parent: the server would take its events for repeated ones.
        self._waiting = Waiting(self._size, self._missing)
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        except Exception:
            if kind is None:
                raise

    def publish(self, topic: str, event: Mapping[str, Any]) -> None:
        """Leave an event to the thread; raise InvalidValue, or the ClientError of earlier events."""
        with self._changed:
            if self._closed:
                raise ValueError("the buffer was closed")
            self._waiting.check()
            body = self._waiting.encode(event)
            self._changed.wait_for(self._waiting.has_room)
            self._waiting.put(topic, body)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="pushsvc buffer", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def flush(self) -> None:
        """Return when everything is published; raise ClientError."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting.events)
            self._waiting.check()

    def close(self) -> None:
        """Do the same, and end the thread."""
        try:
            self.flush()
        finally:
            with self._changed:
                self._closed = True
                self._changed.notify_all()
            if self._thread is not None:
                self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting.events or self._closed)
                batch = self._waiting.take()
            if batch is None:
                return
            error: Exception | None = None
            try:
                self._send(batch.topic, batch.body)
            except Exception as raised:  # noqa: BLE001  # also of a token function; the user gets it
                error = raised
            with self._changed:
                self._waiting.done(batch, error)
                self._changed.notify_all()


_buffers: weakref.WeakSet[Buffer] = weakref.WeakSet()


def _after_fork() -> None:
    for buffer in list(_buffers):
        buffer._restart()


os.register_at_fork(after_in_child=_after_fork)
