"""Webhooks of alerts: the hosts they may be sent to, and their signatures (Standard Webhooks)."""

from __future__ import annotations

import hmac
from base64 import b64decode, b64encode
from binascii import Error as InvalidBase64
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from urllib.parse import SplitResult, urlsplit

from pushsvc.alerts.rule import AlertRule, InvalidAlert

SECRET_PREFIX = "whsec_"  # noqa: S105 - how a secret begins
SHORTEST_SECRET, LONGEST_SECRET = 24, 64
"""Bytes of a secret."""


@dataclass(frozen=True, slots=True)
class WebhookPolicy:
    """``hosts`` are names, addresses, ``*.example.com``, or ``*`` for every host. Without them and a ``secret`` there
    are no webhooks. A host that is named itself may have a private address, and may be reached without TLS."""

    hosts: tuple[str, ...] = ()
    secret: bytes = field(default=b"", repr=False)

    def check(self, url: str) -> SplitResult:
        """Return the parts of a URL; raise InvalidAlert if nothing may be sent there."""
        try:
            parts = urlsplit(url)
            host, fits = parts.hostname or "", parts.port != 0
        except ValueError:
            host, fits = "", False
        plain = url.isascii() and url.isprintable() and " " not in url
        if not (fits and host and plain and parts.scheme in ("http", "https")) or "@" in parts.netloc or parts.fragment:
            raise InvalidAlert("webhook", "a URL such as https://hooks.example/alerts is expected, without a password")
        if not self.secret:
            raise InvalidAlert("webhook", "webhooks are signed, and the setting webhook_secret is missing")
        if not any(_matches(allowed, host) for allowed in self.hosts):
            raise InvalidAlert("webhook", f"the host {host!r} is not in the setting webhook_hosts")
        if parts.scheme == "http" and not self.names(host):
            raise InvalidAlert("webhook", f"http is only for hosts that webhook_hosts names, and {host!r} is not named")
        return parts

    def names(self, host: str) -> bool:
        """Return whether a host is named itself: then its addresses may be private."""
        return host.lower() in self.hosts


@dataclass(frozen=True, slots=True)
class AlertSettings:
    """The alerts of the settings, which requests cannot change, and where webhooks may be sent."""

    rules: tuple[AlertRule, ...] = ()
    webhooks: WebhookPolicy = field(default_factory=WebhookPolicy)


def read_secret(text: str) -> bytes:
    """Return the bytes of a secret such as ``whsec_…`` in base64; raise ValueError."""
    try:
        secret = b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    except InvalidBase64:
        secret = b""
    if not text.startswith(SECRET_PREFIX) or not SHORTEST_SECRET <= len(secret) <= LONGEST_SECRET:
        raise ValueError(
            f"must be {SECRET_PREFIX} and {SHORTEST_SECRET} to {LONGEST_SECRET} random bytes in base64, as of "
            f"echo {SECRET_PREFIX}$(openssl rand -base64 32)"
        )
    return secret


def signed_headers(secret: bytes, id: str, timestamp: int, body: bytes) -> Mapping[str, str]:
    """Return the headers of a delivery at ``timestamp`` (epoch seconds)."""
    content = b"%s.%d.%s" % (id.encode(), timestamp, body)
    signature = b64encode(hmac.new(secret, content, sha256).digest()).decode()
    return {"webhook-id": id, "webhook-timestamp": str(timestamp), "webhook-signature": f"v1,{signature}"}


def _matches(allowed: str, host: str) -> bool:
    host = host.lower()
    return allowed == "*" or allowed == host or (allowed.startswith("*.") and host.endswith(allowed[1:]))
