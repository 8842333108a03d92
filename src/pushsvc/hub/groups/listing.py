"""Something that is looked at every few seconds while somebody watches, and said when it has changed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from time import monotonic
from typing import TYPE_CHECKING, Any

import gevent
from gevent.lock import RLock

from pushsvc import sse
from pushsvc.errors import PushError
from pushsvc.hub import metrics
from pushsvc.hub.delivery.channel import Channel

if TYPE_CHECKING:
    from pushsvc.hub.hub import Hub

log = logging.getLogger(__name__)

REFRESH = 2.0
"""Seconds from one look to the next."""

Look = Callable[[Any], tuple[Any, bytes] | None]
"""Returns what is compared with the look before, and the message that says it; None where it is what the argument says
was seen, as what is compared may be had for less than the message. Raises what the broker raises."""


class Listing(Channel):
    """One look serves all who watch."""

    def __init__(self, hub: Hub, key: Hashable, look: Look) -> None:
        super().__init__(hub, key)
        self._look = look
        self._looking = RLock()
        self._seen: tuple[Any, bytes] | None = None
        self._seen_at = 0.0
        self._greenlet: gevent.Greenlet[..., None] | None = None

    def refresh(self) -> None:
        """Look for who comes now, unless that was done just now; say what changed."""
        with self._looking:
            if self._seen is None or monotonic() - self._seen_at >= REFRESH / 2:
                self._take(self._look(None))
        if self._greenlet is None:
            self._greenlet = gevent.spawn(self._run)

    def _take(self, seen: tuple[Any, bytes] | None) -> None:
        if seen is not None:
            before, self._seen, self._seen_at = self._seen, seen, monotonic()
            if before is not None and before[0] != seen[0]:
                self.say([seen[1]])

    def state(self) -> bytes:
        """Return what was last said, for who comes now."""
        return b"" if self._seen is None else self._seen[1]

    def _run(self) -> None:
        while not self.closed:
            gevent.sleep(REFRESH)
            try:
                with self._looking:
                    self._take(self._look(self._seen and self._seen[0]))
            except PushError as error:
                log.warning("%s: %s", self.key, error)
                self.say([sse.comment(error.title)])
            except Exception:
                metrics.ERRORS.inc()
                log.exception("%s", self.key)
                self.fail()

    def close(self) -> None:
        super().close()
        if self._greenlet is not None:
            self._greenlet.kill(block=False)
