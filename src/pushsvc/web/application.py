"""Asks the operator's application what a request may do (``authorize_url``).

The question is a GET with the request's own cookies and other chosen headers. The application answers 200 with grants,
401 or 403. Whatever else happens refuses the request: an application that is away opens nothing.
"""

from __future__ import annotations

import json
import logging
import ssl
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import NamedTuple
from urllib.parse import urlencode, urlsplit

import gevent
from gevent.event import Event

from pushsvc.auth.grants import Action, Grants, InvalidGrants, read_grants
from pushsvc.auth.tokens import LONGEST_SUBJECT
from pushsvc.errors import ApplicationUnavailable, Busy, MissingToken, NotGranted, PushError
from pushsvc.system_clock import now_ms
from pushsvc.web.long_requests import Seats

log = logging.getLogger(__name__)

_SHORTEST, _REFUSED_FOR = 1.0, 5.0
_FAILURES = (OSError, HTTPException, ValueError, RecursionError, InvalidGrants)
_STATUSES = {401: MissingToken, 403: NotGranted}


@dataclass(frozen=True, slots=True)
class ApplicationLimits:
    """``questions`` are under way at the same time, of one address ``per_address`` at most wait. ``answer`` is in
    bytes. ``remembered`` answers are kept."""

    questions: int = 16
    waiting: int = 1_000
    per_address: int = 100
    answer: int = 65_536
    remembered: int = 10_000


class Question(NamedTuple):
    """What a request wants to do. ``topics`` are names and patterns, none if it is about no topic in particular.

    ``headers`` are those of the request that the application gets.
    """

    action: Action
    topics: tuple[str, ...]
    address: str
    headers: tuple[tuple[str, str], ...]

    @property
    def digest(self) -> bytes:
        text = json.dumps((self.action, self.topics, self.address, self.headers))
        return blake2b(text.encode(), digest_size=16).digest()


class _Answer(NamedTuple):
    """Grants, or the error that refuses, until a time (epoch seconds)."""

    grants: Grants | None
    refusal: type[PushError] | None
    until: float


class Application:
    """The application at a URL. Equal questions are asked once for as long as their answer lasts.

    ``headers`` are the names of the headers that it gets. A question takes at most ``timeout`` seconds, also while it
    waits for its turn, and its answer holds for at most ``lifetime`` seconds.
    """

    def __init__(
        self,
        url: str,
        headers: Sequence[str],
        timeout: float,
        *,
        lifetime: float,
        limits: ApplicationLimits | None = None,
    ) -> None:
        parts = urlsplit(url)
        self.headers = tuple(headers)
        self._limits = limits or ApplicationLimits()
        self._timeout = timeout
        self._lifetime = lifetime
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._host, self._port = parts.hostname or "", parts.port
        self._path = (parts.path or "/") + "?" + (parts.query + "&" if parts.query else "")
        self._seats = Seats(self._limits.questions, self._limits.waiting, self._limits.per_address)
        self._idle: list[HTTPConnection] = []
        self._answers: OrderedDict[bytes, _Answer] = OrderedDict()
        self._asking: dict[bytes, Event] = {}

    def grants(self, question: Question, is_revoked: Callable[[Grants], bool] = lambda _: False) -> Grants:
        """Return what a request may do. Raise MissingToken, NotGranted or ApplicationUnavailable. May wait.

        An answer from before its subject ``is_revoked`` is asked for again.
        """
        digest = question.digest
        answer = self._remembered(digest)
        if answer is not None and answer.grants is not None and is_revoked(answer.grants):
            del self._answers[digest]
            answer = None
        if answer is None:
            asking = self._asking.get(digest)
            if asking is None:
                answer = self._ask(question, digest)
            else:
                asking.wait(self._timeout)
                answer = self._remembered(digest)
        if answer is None:
            raise ApplicationUnavailable("an equal question to authorize_url got no answer")
        if answer.refusal is not None:
            raise answer.refusal("the application refuses this")
        assert answer.grants is not None
        return answer.grants

    def _remembered(self, digest: bytes) -> _Answer | None:
        answer = self._answers.get(digest)
        if answer is None:
            return None
        if answer.until <= now_ms() / 1_000:
            del self._answers[digest]
            return None
        self._answers.move_to_end(digest)
        return answer

    def _ask(self, question: Question, digest: bytes) -> _Answer:
        asking = self._asking[digest] = Event()
        try:
            answer = self._exchange(question)
            self._answers[digest] = answer
            if len(self._answers) > self._limits.remembered:
                self._answers.popitem(last=False)
            return answer
        except (*_FAILURES, Busy) as error:
            reason = error.detail if isinstance(error, Busy) else error
            log.warning("authorize_url: %s %s", type(error).__name__, ascii(str(reason))[:300])
            raise ApplicationUnavailable("authorize_url gave no answer that can be used") from None
        finally:
            del self._asking[digest]
            asking.set()

    def _exchange(self, question: Question) -> _Answer:
        """Ask, and return the answer. Raise one of _FAILURES or Busy."""
        with gevent.Timeout(self._timeout, TimeoutError(f"no answer within {self._timeout:g} s")):  # noqa: SIM117
            with self._seats.seat(question.address):
                status, body = self._get(question)
        return self._read(status, body)

    def _get(self, question: Question) -> tuple[int, bytes]:
        """Send the question on an idle connection, or on a new one: the application may have closed the idle ones."""
        named = [("action", question.action.value), *(("topic", topic) for topic in question.topics)]
        path = self._path + urlencode([*named, ("address", question.address)])
        headers = dict(question.headers) | {"Accept": "application/json"}
        while self._idle:
            try:
                return self._get_on(self._idle.pop(), path, headers)
            except (ConnectionError, HTTPException):
                continue
        return self._get_on(self._connect(), path, headers)

    def _connect(self) -> HTTPConnection:
        if self._tls is not None:
            return HTTPSConnection(self._host, self._port, timeout=self._timeout, context=self._tls)
        return HTTPConnection(self._host, self._port, timeout=self._timeout)

    def _get_on(self, connection: HTTPConnection, path: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
        try:
            connection.request("GET", path, headers=dict(headers))
            response = connection.getresponse()
            body = response.read(self._limits.answer + 1)
            if len(body) > self._limits.answer:
                raise ValueError(f"the answer has more than {self._limits.answer} bytes")
            if response.isclosed() and not response.will_close:
                self._idle.append(connection)
            else:
                connection.close()
            return response.status, body
        except BaseException:
            connection.close()
            raise

    def _read(self, status: int, body: bytes) -> _Answer:
        """Return the answer in a response. Raise ValueError or InvalidGrants."""
        now = now_ms() / 1_000
        if status in _STATUSES:
            return _Answer(None, _STATUSES[status], now + _REFUSED_FOR)
        if status != 200:
            raise ValueError(f"the status is {status}: 200, 401 or 403 are expected")
        found = json.loads(body)
        if not isinstance(found, dict):
            raise ValueError("a JSON object is expected")
        subject, lifetime = found.get("sub") or "", found.get("expires_in")
        if not isinstance(subject, str) or len(subject) > LONGEST_SUBJECT or not subject.isprintable():
            raise ValueError(f"sub: a text of at most {LONGEST_SUBJECT} printable characters is expected")
        if not isinstance(lifetime, int | float) or not _SHORTEST <= lifetime <= 1e12:
            raise ValueError("expires_in: a number of seconds from 1 on is expected")
        until = now + min(lifetime, self._lifetime)
        grants = replace(read_grants(found.get("pushsvc", {})), subject=subject, issued=now, expires=until)
        return _Answer(grants, None, until)
