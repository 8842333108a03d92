"""Streams that end with the grants under which they were opened: at their expiry, or when their subject is revoked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from math import ceil, inf
from typing import Any

from pushsvc.auth.grants import Grants
from pushsvc.hub.delivery.connection import Connection

OnClose = Callable[[], None]


class Session:
    """One such stream. It is also what its connection calls when it closes, so that a stream needs one object for both.

    Of its grants it keeps what it needs: each token has grants of its own.
    """

    __slots__ = ("_on_close", "_sessions", "connection", "due", "issued", "subject")

    def __init__(self, sessions: Sessions, grants: Grants, connection: Connection, on_close: OnClose) -> None:
        self.subject = grants.subject
        self.issued = grants.issued
        self.due = 0 if grants.expires == inf else ceil(grants.expires)
        self.connection = connection
        self._sessions = sessions
        self._on_close = on_close

    def __call__(self) -> None:
        self._sessions.discard(self)
        self._on_close()


class Sessions:
    """The streams of a process that end with their grants.

    ``check`` raises InvalidToken for grants that do not hold any more. Streams that are due in the same second are
    found together: no stream has a timer, and a stream that closes early leaves nothing behind.
    """

    def __init__(self, check: Callable[[Grants], None]) -> None:
        self._check = check
        self._by_subject: dict[str, set[Session]] = defaultdict(set)
        self._by_second: dict[int, set[Session]] = defaultdict(set)
        self._last_second = 0

    def enter(self, grants: Grants, connection: Connection) -> None:
        """Let a stream end with its grants. Raise InvalidToken if they do not hold any more."""
        self._check(grants)
        session = Session(self, grants, connection, connection.on_close)
        connection.on_close = session
        self._by_subject[session.subject].add(session)
        if session.due:
            self._by_second[session.due].add(session)

    def discard(self, session: Session) -> None:
        """Forget a stream that has closed."""
        _discard(self._by_subject, session.subject, session)
        _discard(self._by_second, session.due, session)

    def expired(self, now: float) -> list[Connection]:
        """Return the streams whose grants have expired since the last call."""
        second, first = int(now), self._last_second + 1
        self._last_second = second
        if second - first < len(self._by_second):
            due = [of for of in range(first, second + 1) if of in self._by_second]
        else:  # the first call, or the clock was set
            due = [of for of in self._by_second if of <= second]
        return [session.connection for of in due for session in self._by_second.pop(of)]

    def of(self, subject: str, issued: float) -> list[Connection]:
        """Return the streams of a subject whose grants are from ``issued`` or before, or from an unknown time."""
        found = self._by_subject.get(subject, ())
        return [one.connection for one in found if one.issued is None or one.issued <= issued]


def _discard(sessions: dict[Any, set[Session]], key: Any, session: Session) -> None:
    found = sessions.get(key)
    if found is not None:
        found.discard(session)
        if not found:
            del sessions[key]
