"""``DELETE /v1/sessions``: ends the streams of a subject, and refuses the tokens that it has."""

from __future__ import annotations

import logging

import gevent
from flask import Blueprint, Response, request
from gevent.event import Event

from pushsvc.auth.access import Access
from pushsvc.auth.tokens import LONGEST_SUBJECT
from pushsvc.broker.revocations import RevocationStore
from pushsvc.clock import format_time
from pushsvc.errors import InvalidInput, InvalidParameter, Unavailable
from pushsvc.hub.delivery.sessions import Sessions
from pushsvc.hub.hub import Hub
from pushsvc.system_clock import now_ms
from pushsvc.web.parameters import Parameters
from pushsvc.web.responses import json_response

log = logging.getLogger(__name__)

REVOKED = "the access of this subject was revoked"
_PAUSE = 0.5  # seconds between two attempts to read the list


class RevokedSessions:
    """Knows in this process which subjects were revoked, and ends their streams.

    The list is read as a whole when the channel of its notifications is subscribed, at the start and after each
    reconnect. Until the first time tokens are answered with 503; later, while Redis is away, the last list holds.
    """

    def __init__(self, store: RevocationStore, access: Access, hub: Hub) -> None:
        self._store = store
        self._lifetime = access.lifetime
        self._revocations = access.revocations
        self._revocations.known, self._revocations.load = False, self._load
        self._hub = hub
        self._sessions = hub.sessions = Sessions(lambda grants: access.check_current(grants, now_ms() / 1_000))
        self._due = Event()
        self._reader: gevent.Greenlet[..., None] | None = None
        hub.feed.listen(store.channel, self._on_message)

    def revoke(self, subject: str) -> float:
        """End the streams of a subject in all processes; return the time until which its tokens are refused."""
        time = self._store.revoke(subject, self._lifetime)
        self._add(subject, time)
        return time

    def _on_message(self, message: bytes) -> None:
        if message:
            self._add(*self._store.parse(message))
            return
        self._due.set()
        if self._reader is None:
            self._reader = gevent.spawn(self._read_when_due)

    def _read_when_due(self) -> None:
        while True:
            self._due.wait()
            self._due.clear()
            try:
                self._load()
            except Exception as error:
                if not isinstance(error, Unavailable):
                    log.exception("the revoked subjects could not be read")
                self._due.set()
                gevent.sleep(_PAUSE)

    def _load(self) -> None:
        for page in self._store.read():
            for subject, time in page.items():
                self._add(subject, time)
        self._revocations.complete(now_ms() / 1_000 - self._lifetime)

    def _add(self, subject: str, time: float) -> None:
        if self._revocations.add(subject, time):
            self._end(subject, time)

    def _end(self, subject: str, time: float) -> None:
        if found := self._sessions.of(subject, time):
            gevent.spawn(self._hub.end_streams, found, REVOKED)


def blueprint(sessions: RevokedSessions | None) -> Blueprint:
    """Return the resource; without ``sessions`` there are no tokens."""
    resource = Blueprint("sessions", __name__, url_prefix="/v1/sessions")

    @resource.delete("")
    def revoke() -> Response:
        subject = Parameters(request.args, ("sub",)).text("sub")
        if not subject or len(subject) > LONGEST_SUBJECT or not subject.isprintable():
            raise InvalidParameter("sub", f"the sub of tokens is expected, 1 to {LONGEST_SUBJECT} printable characters")
        if sessions is None:
            raise InvalidInput("authorization is off: there are no tokens to revoke")
        time = sessions.revoke(subject)
        log.warning("the access of %s was revoked", ascii(subject))
        return json_response({"sub": subject, "refused_until": format_time(int(time * 1_000))})

    return resource
