"""The progress of a job as events: how much is done, at which rate, and how long the rest takes."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from math import isfinite
from types import TracebackType
from typing import Any, Self

from pushsvc_client.errors import ClientError

Send = Callable[[dict[str, Any]], object]  # publishes an event; raises ClientError

RUNNING, DONE, FAILED = "running", "done", "failed"
_OWN = frozenset({"id", "key", "type", "time", "state", "done", "total", "rate", "elapsed", "remaining"})
FAULTS = (ClientError, TypeError, ValueError)  # the last two of fields that are no JSON
_RECENT = 20.0  # seconds of which the rate is the mean


class Bar:
    """How far a job is. A subclass publishes it: ``_notify`` is called after each change."""

    def __init__(self, total: float | None, *, key: str, every: float, fields: Mapping[str, Any]) -> None:
        if not every >= 0.1:
            raise ValueError(f"every={every!r} must be at least 0.1 seconds")
        self.error: Exception | None = None
        self.state = RUNNING
        self._total, self._key, self._every = total, key, every
        self._fields: dict[str, Any] = {}
        self._done: float = 0
        self._begun = time.monotonic()
        self._samples: deque[tuple[float, float]] = deque([(self._begun, 0)])
        self._name, self._number = os.urandom(8).hex(), 0
        self._unsent = True
        self._take(fields)

    def _notify(self) -> None:
        raise NotImplementedError

    def _set(self, done: float, fields: Mapping[str, Any]) -> None:
        if self.state != RUNNING:
            raise ValueError("the progress was closed")
        if not isfinite(done):
            raise ValueError(f"{done!r} is no number of what is done")
        self._take(fields)
        self._done, self._unsent = done, True
        self._notify()

    def _take(self, fields: Mapping[str, Any]) -> None:
        if own := _OWN & fields.keys():
            raise ValueError(f"{min(own)} is a member of its own")
        self._fields |= fields

    def _end(self, state: str, fields: Mapping[str, Any]) -> None:
        """Set the last state; further calls do nothing."""
        if self.state == RUNNING:
            self._take(fields)
            self.state, self._unsent = state, True
            self._notify()

    def _next(self) -> tuple[dict[str, Any], bool]:
        """Return the event to publish now, and whether it is the last."""
        self._unsent = False
        return self._event(time.monotonic()), self.state != RUNNING

    def _event(self, now: float) -> dict[str, Any]:
        """Return the present state as an event, with an id: it may be sent twice."""
        self._samples.append((now, self._done))
        while len(self._samples) > 2 and self._samples[1][0] <= now - _RECENT:
            self._samples.popleft()
        (since, before), self._number = self._samples[0], self._number + 1
        rate = (self._done - before) / (now - since) if now > since else 0.0
        event = {
            "id": f"{self._name}-{self._number}", "key": self._key, "type": "progress", "state": self.state,
            "done": self._done, "rate": round(rate, 3), "elapsed": round(now - self._begun, 3), **self._fields,
        }  # fmt: skip
        if self._total is not None:
            event["total"] = self._total
            rest = max(0, self._total - self._done)
            if rate > 0 or not rest:
                event["remaining"] = round(rest / rate, 3) if rest else 0.0
        return event


class Progress(Bar):
    """Publishes how far a job is, from a thread of its own: the job never waits for the server.

    While something changes, an event follows every ``every`` seconds; the first comes at once and the last with
    ``close``. Used as a context manager, an exception makes the last state ``failed``. An event that cannot be
    published fails no job: ``error`` has the reason, and ``on_outage`` is called with it. After a refusal none follows.
    """

    def __init__(
        self, send: Send, total: float | None, *, key: str, every: float, fields: Mapping[str, Any],
        on_outage: Callable[[str | None], None],
    ) -> None:  # fmt: skip
        super().__init__(total, key=key, every=every, fields=fields)
        self._send, self._on_outage = send, on_outage
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"progress {key}", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(DONE if kind is None else FAILED)

    def update(self, by: float = 1, **fields: Any) -> None:
        """Count ``by`` more as done. ``fields`` are members that this event and all later ones have, too."""
        with self._changed:
            self._set(self._done + by, fields)

    def set(self, done: float, **fields: Any) -> None:
        """Note how much is done altogether; ``fields`` as in ``update``."""
        with self._changed:
            self._set(done, fields)

    def close(self, state: str = DONE, **fields: Any) -> None:
        """Publish the last event, with ``state``, and wait for it. Further calls do nothing."""
        with self._changed:
            self._end(state, fields)
        self._thread.join()

    def _notify(self) -> None:
        self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._unsent)
                event, ended = self._next()
            try:
                self._send(event)
                self._on_outage(None)
            except FAULTS as error:
                self.error = error
                self._on_outage(str(error))
            if ended or is_refusal(self.error):
                return
            with self._changed:
                self._changed.wait_for(lambda: self.state != RUNNING, self._every)


def is_refusal(error: Exception | None) -> bool:
    """Return whether the server has answered that it takes no such event."""
    return isinstance(error, ClientError) and error.reply is not None and not error.temporary
