"""Checks of the settings of issuers and API keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pushsvc.auth.api_keys import read_api_key
from pushsvc.auth.tokens import ALGORITHMS
from pushsvc.errors import InvalidSetting, InvalidTopic
from pushsvc.topic import check_pattern

LONGEST_LEEWAY = 600.0
"""Seconds that the clocks of issuers may differ, at most."""

_OF_CONNECTIONS = frozenset({
    "accept", "accept-encoding", "connection", "content-length", "content-type", "expect", "host", "keep-alive", "te",
    "trailer", "transfer-encoding", "upgrade",
})  # fmt: skip


@dataclass(frozen=True)
class IssuerSettings:
    """One who signs tokens. It has one of ``key``, ``key_file`` and ``jwks_url``; see ``auth.tokens.Issuer``."""

    name: str | None = None
    key: str | None = field(default=None, repr=False)
    key_file: Path | None = None
    jwks_url: str | None = None
    algorithms: tuple[str, ...] = ()
    audience: tuple[str, ...] = ()
    leeway: float = 10.0
    needs_expiry: bool = True


def algorithm(value: Any) -> str:
    """Return the name of an algorithm of tokens; raise ValueError."""
    if value not in ALGORITHMS:
        raise ValueError(f"{value!r} is none of {', '.join(ALGORITHMS)}")
    return str(value)


def topic_pattern(value: Any) -> str:
    """Return a topic or pattern; raise ValueError."""
    if not isinstance(value, str):
        raise ValueError("must be the name of a topic, or a pattern")
    try:
        return check_pattern(value)
    except InvalidTopic as error:
        raise ValueError(error.detail) from None


def seconds(value: Any) -> float:
    """Return how many seconds clocks may differ; raise ValueError."""
    if type(value) not in (int, float) or not 0 <= value <= LONGEST_LEEWAY:
        raise ValueError(f"must be a number of seconds from 0 to {LONGEST_LEEWAY:g}")
    return float(value)


def jwks_url(value: Any) -> str:
    """Return the URL of a JWK set; raise ValueError."""
    return _url(value, "https://login.example/.well-known/jwks.json")


def application_url(value: Any) -> str:
    """Return the URL of an application that is asked for grants; raise ValueError."""
    return _url(value, "http://127.0.0.1:5000/pushsvc")


def _url(value: Any, example: str) -> str:
    try:
        url = urlsplit(value if isinstance(value, str) else "")
        fits = url.scheme in ("https", "http") and bool(url.hostname) and url.username is None and value.isascii()
        fits = fits and url.port != 0 and not url.fragment and value.isprintable() and " " not in value
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"must be a URL such as {example}, without a password")
    return str(value)


def header_name(value: Any) -> str:
    """Return the name of a header that an application gets; raise ValueError."""
    name = str(value).lower()
    if not re.fullmatch(r"[a-z0-9!#$%&'*+.^_`|~-]{1,100}", name) or name in _OF_CONNECTIONS:
        raise ValueError(f"{value!r} is not a header that can be passed on")
    return name


def patience(value: Any) -> float:
    """Return how many seconds an application has to answer; raise ValueError."""
    if type(value) not in (int, float) or not 0.1 <= value <= 30:
        raise ValueError("must be a number of seconds from 0.1 to 30")
    return float(value)


def api_keys(value: Any) -> dict[str, dict[str, Any]]:
    """Return the tables of API keys by their names; raise ValueError."""
    if not isinstance(value, dict) or not all(isinstance(entry, Mapping) for entry in value.values()):
        raise ValueError('must have a table per key, such as [keys.shop] with hash = "sha256:…" and its grants')
    for name, entry in value.items():
        try:
            read_api_key(name, entry)
        except InvalidSetting as error:
            raise ValueError(error.detail.removeprefix("keys.")) from None
    return {name: dict(entry) for name, entry in value.items()}
