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
from pushsvc.hub.channel import Channel

if TYPE_CHECKING:
    from pushsvc.hub.hub import Hub

log = logging.getLogger(__name__)

REFRESH = 2.0
"""Seconds from one look to the next."""

Look = Callable[[], tuple[Any, bytes]]
"""Returns what is compared with the look before, and the message that says it. Raises what the broker raises."""


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
        """Look, unless that was done just now; say what changed."""
        with self._looking:
            if self._seen is not None and monotonic() - self._seen_at < REFRESH / 2:
                return
            before, seen = self._seen, self._look()
            self._seen, self._seen_at = seen, monotonic()
            if before is not None and before[0] != seen[0]:
                self.say([seen[1]])
        if self._greenlet is None:
            self._greenlet = gevent.spawn(self._run)

    def state(self) -> bytes:
        """Return what was last said, for who comes now."""
        return b"" if self._seen is None else self._seen[1]

    def _run(self) -> None:
        while not self.closed:
            gevent.sleep(REFRESH)
            try:
                self.refresh()
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
