"""Publishes raw messages of producers that only ``PUBLISH`` to Redis: at most once, under the limits of requests."""

import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from gevent.event import Event
from prometheus_client import Counter

from pushsvc.alerts.rule import ALERTS_TOPIC
from pushsvc.broker.broker import Broker
from pushsvc.errors import InvalidInput, LogFull, PushError, TooLarge, TooManyTopics, Unavailable
from pushsvc.event import EventReader, Limits, guess_media_type
from pushsvc.settings import LATEST_BYTES, TopicRules
from pushsvc.system_clock import now_ms
from pushsvc.topic import check_topic, partition_of

log = logging.getLogger(__name__)

_OVERHEAD = 200  # bytes of memory that a message takes beside its data, about: there may be many without data
INGESTED = Counter("pushsvc_ingest_events_total", "Events taken from Redis PUBLISH")
REFUSED = Counter("pushsvc_ingest_refused_total", "Messages on ingest channels that were refused")
CROWDED = Counter("pushsvc_ingest_topics_refused_total", "Messages dropped: no room for another topic in the partition")
FULL = Counter("pushsvc_ingest_log_full_total", "Messages dropped: the log of their topic is full")
DROPPED = Counter("pushsvc_ingest_dropped_total", "Messages on ingest channels that could not be queued or stored")


class Ingest:
    """Publishes messages of the partitions that this process owns, in the order of their arrival.

    ``fence_of(partition)`` returns the fencing token, None if another process owns the partition. Messages that wait
    hold at most ``backlog_bytes``.
    """

    def __init__(
        self, broker: Broker, rules: TopicRules, fence_of: Callable[[int], int | None], limits: Limits | None = None,
        backlog_bytes: int = 32_000_000,
    ) -> None:  # fmt: skip
        self._broker = broker
        self._rules = rules
        self._fence_of = fence_of
        self._reader = EventReader(limits or Limits())
        self._backlog: deque[tuple[str, bytes]] = deque()
        self._backlog_bytes = backlog_bytes
        self._size = 0
        self._filled = Event()

    def offer(self, topic: str, data: bytes) -> None:
        """Queue a message; drop and count it if the backlog is full."""
        size = _OVERHEAD + len(topic) + len(data)
        if self._size + size > self._backlog_bytes:
            DROPPED.inc()
            return
        self._backlog.append((topic, data))
        self._size += size
        self._filled.set()

    @property
    def waiting(self) -> int:
        return len(self._backlog)

    def run(self) -> None:
        """Publish what is queued, until the greenlet is killed."""
        while True:
            self._filled.wait()
            self._filled.clear()
            while self._backlog:
                topic, data = self._backlog.popleft()
                self._size -= _OVERHEAD + len(topic) + len(data)
                try:
                    self._publish(topic, data)
                except TooManyTopics as error:
                    CROWDED.inc()
                    log.warning("ingest: %s", error)
                except PushError as error:
                    DROPPED.inc()
                    log.warning("ingest of %r: %s", topic, error)
                except Exception:
                    DROPPED.inc()
                    log.exception("ingest of %r", topic)

    def _publish(self, topic: str, data: bytes) -> None:
        try:
            if check_topic(topic) == ALERTS_TOPIC:
                raise InvalidInput(f"{topic!r}: only the server itself publishes there")
        except InvalidInput as error:
            REFUSED.inc()
            log.warning("ingest: %s", error.detail)
            return
        fence = self._fence_of(partition_of(topic))
        if fence is None:
            return
        try:
            settings = self._rules.settings_of(topic)
            reading = self._reader.read(topic, data, guess_media_type(data), now=now_ms())
            if settings.latest:
                reading = reading.without_larger(LATEST_BYTES)
            if reading.faults:
                fault = reading.faults[0]
                raise InvalidInput(f"line {fault.line}, field {fault.field}: {fault.detail}")
            receipt = self._broker.publish(topic, reading.batch, settings, fence=fence)
            INGESTED.inc(receipt.accepted)
        except LogFull as error:
            FULL.inc()
            log.warning("ingest: %s", error)
            self._record_refusal(topic, error.detail)
        except (InvalidInput, TooLarge) as error:
            REFUSED.inc()
            log.warning("ingest of %r: %s", topic, error.detail)
            self._record_refusal(topic, error.detail)

    def _record_refusal(self, topic: str, detail: str) -> None:
        with suppress(Unavailable):  # the message is counted already
            self._broker.record_refusal(topic, detail)
