"""A JWK set that is fetched from an issuer, and again when its keys may have changed."""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from time import monotonic
from typing import Any, overload
from urllib.request import HTTPRedirectHandler, Request, build_opener

import gevent
from gevent.event import Event

from pushsvc.auth.tokens import Key, read_jwks
from pushsvc.errors import InvalidSetting, KeysUnavailable

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class JwksLimits:
    """Seconds, but for ``bytes`` and ``keys`` of a set. A fetch that succeeded is repeated after ``refresh``, one that
    failed after ``retry``. Unknown keys cause another one at the earliest ``again`` after the last has begun."""

    refresh: float = 300.0
    retry: float = 10.0
    again: float = 30.0
    timeout: float = 5.0
    bytes: int = 256_000
    keys: int = 100


class _NoRedirect(HTTPRedirectHandler):
    """A redirect could lead from TLS to a plain connection, or to another machine than the operator named."""

    def redirect_request(self, *_: Any) -> None:
        return None


class JwkSet(Sequence[Key]):
    """The keys of an issuer, fetched in a greenlet. ``algorithms`` limits them, () does not.

    The keys of the last successful fetch hold while later ones fail.
    """

    def __init__(self, url: str, algorithms: Sequence[str] = (), limits: JwksLimits | None = None) -> None:
        self._url = url
        self._shown = url.partition("?")[0]  # what follows may be a secret
        self._algorithms = algorithms
        self._limits = limits or JwksLimits()
        self._keys: tuple[Key, ...] | None = None
        self._begun = -self._limits.again
        self._wanted, self._done = Event(), Event()
        self._greenlet = gevent.spawn(self._run)

    def __len__(self) -> int:
        return len(self._keys or ())

    @overload
    def __getitem__(self, index: int) -> Key: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Key]: ...
    def __getitem__(self, index: int | slice) -> Key | Sequence[Key]:
        return (self._keys or ())[index]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys or ())

    def refresh(self) -> bool:
        """Wait for a fetch, unless one began a short while ago; return whether there was one. Raise KeysUnavailable."""
        is_due = monotonic() >= self._begun + self._limits.again
        if is_due:
            self._done.clear()
            self._wanted.set()
        waits = not self._done.is_set()  # also for a fetch that another request asked for
        if waits:
            self._done.wait(self._limits.timeout + 1)
        if self._keys is None:
            raise KeysUnavailable(f"the keys of {self._shown} could not be fetched yet")
        return waits

    def close(self) -> None:
        self._greenlet.kill()

    def _run(self) -> None:
        while True:
            self._done.clear()
            self._wanted.clear()
            self._begun = monotonic()
            pause = self._limits.refresh if self._fetch() else self._limits.retry
            self._done.set()
            self._wanted.wait(pause)

    def _fetch(self) -> bool:
        """Take over the keys of the URL; return whether that succeeded."""
        limits = self._limits
        try:
            with gevent.Timeout(limits.timeout, TimeoutError(f"no answer within {limits.timeout:g} s")):
                document = self._read()
            keys = read_jwks(document)
            if len(keys) > limits.keys:
                raise InvalidSetting(f"{len(keys)} keys, at most {limits.keys} are expected")
        except (OSError, HTTPException, ValueError, RecursionError, InvalidSetting) as error:
            kept = "tokens are answered with 503" if self._keys is None else "the earlier keys stay"
            log.warning("the keys at %s cannot be fetched, %s: %s", self._shown, kept, error)
            return False
        self._keys = tuple(key for key in keys if not self._algorithms or key.algorithm in self._algorithms)
        if not self._keys:
            log.warning("the set at %s has no key of use here, so every token of its issuer is refused", self._shown)
        return True

    def _read(self) -> Any:
        request = Request(self._url, headers={"Accept": "application/jwk-set+json, application/json"})
        with build_opener(_NoRedirect).open(request, timeout=self._limits.timeout) as answer:
            text = answer.read(self._limits.bytes + 1)
        if len(text) > self._limits.bytes:
            raise InvalidSetting(f"more than {self._limits.bytes} bytes")
        return json.loads(text)


def fetched_keys(url: str, algorithms: Sequence[str]) -> tuple[Sequence[Key], Callable[[], bool]]:
    """Return the keys of the set at a URL, which are fetched from now on, and what has them fetched again."""
    keys = JwkSet(url, algorithms)
    return keys, keys.refresh
