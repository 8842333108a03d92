"""Publishes from an application: at once, or by a thread that sends what a bounded buffer has."""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

from pushsvc.auth.grants import ALL_TOPICS, Grants
from pushsvc.errors import Busy
from pushsvc.extension.lazily import Lazily, forget
from pushsvc.extension.server import PushServer, ServerUnavailable
from pushsvc_client.batches import BodyLimits, Events, batches
from pushsvc_client.errors import ClientError, InvalidValue

log = logging.getLogger(__name__)

OnError = Literal["raise", "drop", "buffer"]

# The application itself publishes: it may name any topic in `reply_to`, too, which takes a grant to read it.
_MAY_PUBLISH = Grants(publish=ALL_TOPICS, subscribe=ALL_TOPICS)
_TEMPORARY = frozenset({429, 503})
_ANSWER = 10_000_000  # bytes of a receipt
_SHOWN = 10  # refused events of one request that the log names


class BufferFull(Busy):
    slug, title = "publish-buffer-full", "The buffer of events that wait for Redis is full"


@dataclass(frozen=True, slots=True)
class BufferLimits:
    """``events`` and ``bytes`` wait at most, ``batch_…`` of them are sent together. Times are in seconds."""

    events: int = 10_000
    bytes: int = 8_000_000
    batch_events: int = 1_000
    batch_bytes: int = 1_000_000
    request: float = 10.0
    first_pause: float = 0.1
    longest_pause: float = 2.0


class _Item(NamedTuple):
    """Events of one topic as the inside of a JSON array. ``kept`` ones wait for Redis, others are sent once.

    With a ``key`` it is the whole body of a request that was sent with this key and may be stored already.
    """

    topic: str
    body: bytes
    events: int
    kept: bool
    key: str | None = None


class Publisher:
    """Publishes through a server. Threads may share it, and a process may fork: what waits stays with the parent."""

    _changed = Lazily(threading.Condition)

    def __init__(self, server: PushServer, limits: BufferLimits | None = None) -> None:
        self._server = server
        self._limits = limits or BufferLimits()
        self.after_fork()

    def after_fork(self) -> None:
        """Begin with an empty buffer."""
        forget(self, "_changed")
        self._waiting: deque[_Item] = deque()
        self._events = self._bytes = 0  # of items that wait or are being sent
        self._number = 0
        self._pending: dict[str, deque[int]] = {}  # numbers of these items, by topic
        self._thread: threading.Thread | None = None
        self._closed = False

    def await_first_start(self, timeout: float) -> None:
        """If the server was never started, start it and wait for ``timeout`` seconds, or longer if it usually takes
        longer."""
        if longest := self._server.first_start:
            with suppress(ServerUnavailable):  # the request fails with the same reason
                self._server.start(max(timeout, longest))

    def send(self, topic: str, events: Events, timeout: float, on_error: OnError = "raise") -> dict[str, Any] | None:
        """Publish and return the receipt, within ``timeout`` seconds, after the events of the topic that wait already.

        If Redis is away, ``on_error`` says whether to raise ClientError, or to drop the events or leave them to the
        thread, and return None. Raise ClientError for events that are refused, InvalidValue, or BufferFull.
        """
        found = list(_bodies(events, BodyLimits()))
        if len(found) > 1:
            raise ValueError("wait=True takes events of one request: at most 10,000 and 8 MB")
        body, key = found[0], secrets.token_urlsafe(16)
        end = time.monotonic() + timeout
        try:
            return self._post(topic, body, key, self._await_turn(topic, timeout), skip=False)
        except ClientError as error:
            if not error.temporary or on_error == "raise":
                raise
            if on_error == "drop":
                log.error("events of %s are lost: %s", topic, error.detail)
                return None
        self._put(_Item(topic, body, _count(body), kept=True, key=key), end)
        return None

    def _await_turn(self, topic: str, timeout: float) -> float:
        """Return what is left of ``timeout`` once the earlier events of a topic are published or given up. Raise
        ClientError."""
        with self._changed:
            pending = self._pending.get(topic)
            if pending is None:
                return timeout
            newest, end = pending[-1], time.monotonic() + timeout
            if not self._changed.wait_for(lambda: not pending or pending[0] > newest, timeout):
                raise ClientError(f"earlier events of {topic} wait for Redis", temporary=True)
            return max(0.001, end - time.monotonic())

    def put(self, topic: str, events: Events, timeout: float, *, kept: bool) -> None:
        """Leave events to the thread. Raise InvalidValue, or BufferFull if there is no room within ``timeout`` seconds;
        events that need not be ``kept`` are dropped then."""
        end = time.monotonic() + timeout
        for body in _bodies(events, BodyLimits(self._limits.batch_events, self._limits.batch_bytes)):
            inside = body[1:-1] if _is_array(body) else body
            self._put(_Item(topic, inside, _count(body), kept), end)

    def _put(self, item: _Item, end: float) -> None:
        with self._changed:
            if not self._has_room(item):
                if not item.kept:
                    log.warning("the buffer is full: %d events of %s are dropped", item.events, item.topic)
                    return
                if not self._changed.wait_for(lambda: self._has_room(item), end - time.monotonic()):
                    raise BufferFull(f"{self._events} events wait for Redis, and there is no room for more")
            self._waiting.append(item)
            self._number += 1
            self._pending.setdefault(item.topic, deque()).append(self._number)
            self._events += item.events
            self._bytes += len(item.body)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="pushsvc-publisher", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _has_room(self, item: _Item) -> bool:
        if not self._events:
            return True  # one that is larger than the buffer
        fits = self._bytes + len(item.body) <= self._limits.bytes
        return fits and self._events + item.events <= self._limits.events

    def flush(self, timeout: float) -> bool:
        """Return whether all events are published or given up within ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._events, timeout)

    def close(self, timeout: float) -> None:
        """Publish what waits, for ``timeout`` seconds at most, and log how many events are lost."""
        if not self.flush(timeout):
            log.error("%d events are lost: Redis did not take them before the end", self._events)
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    # The thread

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or len(self._waiting) > 0)
                if self._closed:
                    return
                taken = self._take()
            for items in _requests(taken):
                try:
                    self._deliver(items[0].topic, items)
                except Exception:  # the thread must live: the buffer would fill without an end
                    log.exception("events of %s are lost", items[0].topic)
                with self._changed:
                    self._forget(items)
                    self._changed.notify_all()

    def _forget(self, items: list[_Item]) -> None:
        """Take the items of one request, the oldest of their topic, out of the account."""
        topic = items[0].topic
        pending = self._pending[topic]
        for item in items:
            pending.popleft()
            self._events -= item.events
            self._bytes -= len(item.body)
        if not pending:
            del self._pending[topic]

    def _take(self) -> list[_Item]:
        taken = [self._waiting.popleft()]
        events, size = taken[0].events, len(taken[0].body)
        while self._waiting:
            following = self._waiting[0]
            events, size = events + following.events, size + len(following.body)
            if events > self._limits.batch_events or size > self._limits.batch_bytes:
                break
            taken.append(self._waiting.popleft())
        return taken

    def _deliver(self, topic: str, items: list[_Item]) -> None:
        """Publish the items of one request; repeat what is kept until Redis takes it."""
        again = items[0].key is not None
        body = items[0].body if again else b"[" + b",".join(item.body for item in items) + b"]"
        pause, key = self._limits.first_pause, items[0].key or secrets.token_urlsafe(16)
        while True:
            try:
                receipt = self._post(topic, body, key, self._limits.request, skip=not again)
                _log_refused(topic, receipt.get("errors", ()))
                return
            except ClientError as error:
                if not (items[0].kept and error.temporary):
                    log.error("%d events of %s are lost: %s", sum(item.events for item in items), topic, error.detail)
                    return
                if pause == self._limits.first_pause:
                    log.warning("events of %s wait: %s", topic, error.detail)
            with self._changed:
                if self._changed.wait_for(lambda: self._closed, pause):
                    return
            pause = min(2 * pause, self._limits.longest_pause)

    def _post(self, topic: str, body: bytes, key: str, timeout: float, *, skip: bool) -> dict[str, Any]:
        """Publish the body of a request and return the receipt. Raise ClientError.

        ``key`` makes it safe to repeat the request. ``skip`` stores the good events beside bad ones.
        """
        end = time.monotonic() + timeout
        try:
            connection = self._server.connect(timeout)
        except ServerUnavailable as error:
            raise ClientError(error.detail, temporary=True) from None
        headers = {
            "Authorization": f"Bearer {self._server.token(_MAY_PUBLISH)}",
            "Content-Type": "application/json", "Idempotency-Key": key, "Host": "localhost",
        }  # fmt: skip
        path = f"/v1/topics/{quote(topic, safe='')}/events" + ("?on_error=skip" if skip else "")
        try:
            connection.sock.settimeout(max(0.001, end - time.monotonic()))  # for the body
            connection.request("POST", path, body, headers)
            if connection.sock is not None:
                connection.sock.settimeout(max(0.001, end - time.monotonic()))  # for the receipt
            response = connection.getresponse()
            answer = response.read(_ANSWER)
        except (OSError, HTTPException) as error:
            reason = f"no receipt within {timeout:g} s" if isinstance(error, TimeoutError) else f"no receipt: {error}"
            raise ClientError(reason, temporary=True, unknown=True) from None
        finally:
            connection.close()
        found: dict[str, Any] = {}
        with suppress(ValueError):
            found = json.loads(answer)
        if response.status < 300:
            return found
        raise ClientError(
            f"{response.status} {found.get('detail') or response.reason}", reply=response.status, problem=found,
            temporary=response.status in _TEMPORARY, unknown=found.get("type", "").endswith("outcome-unknown"),
        )  # fmt: skip


def _bodies(events: Events, limits: BodyLimits) -> Iterator[bytes]:
    """Yield the bodies of requests that publish ``events``. Raise InvalidValue, also if there are none."""
    for batch in batches(events, {}, "error", limits):
        if batch.body == b"[]":
            raise InvalidValue("there are no events")
        yield batch.body


def _is_array(body: bytes) -> bool:
    return body.startswith(b"[")


def _count(body: bytes) -> int:
    return len(json.loads(body)) if _is_array(body) else 1


def _requests(items: Iterable[_Item]) -> list[list[_Item]]:
    """Divide items into requests: those of a topic together, in their order.

    An item with a key is a request already. Kept items have requests of their own, which are repeated as they are: a
    part of one, under another key, could be stored twice.
    """
    requests: list[list[_Item]] = []
    last: dict[str, list[_Item]] = {}
    for item in items:
        before = last.get(item.topic)
        if before is None or item.key is not None or before[0].key is not None or before[0].kept != item.kept:
            before = last[item.topic] = []
            requests.append(before)
        before.append(item)
    return requests


def _log_refused(topic: str, errors: Iterable[Mapping[str, Any]]) -> None:
    for fault in list(errors)[:_SHOWN]:
        log.error("an event of %s was refused: field %s: %s", topic, fault.get("field"), fault.get("detail"))
