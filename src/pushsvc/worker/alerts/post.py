"""Posts a webhook to an address that was checked: a name may lead to another one at the next look."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from ipaddress import IPv6Address, ip_address, ip_network
from urllib.parse import SplitResult

import gevent

from pushsvc.alerts.webhook import WebhookPolicy

_TRANSLATED = ip_network("64:ff9b::/96")  # IPv6 addresses that stand for any IPv4 address
_ANSWER = 1_000  # bytes of an answer that are read


class NotDelivered(Exception):
    """The receiver did not take it. ``is_final``: it must not be tried again."""

    def __init__(self, reason: str, *, is_final: bool = False) -> None:
        super().__init__(reason)
        self.is_final = is_final


def post(parts: SplitResult, policy: WebhookPolicy, headers: Mapping[str, str], body: bytes, timeout: float) -> None:
    """Post to a URL that ``policy`` allows, within ``timeout`` seconds in all; raise NotDelivered.

    Redirects are not followed: they could lead anywhere.
    """
    late = gevent.Timeout(timeout)
    try:
        with late:
            status = _post(parts, policy, headers, body, timeout)
    except gevent.Timeout as error:
        if error is not late:
            raise
        raise NotDelivered(f"no answer within {timeout:g} s") from None
    except (OSError, HTTPException, UnicodeError) as error:
        raise NotDelivered(f"{type(error).__name__}: {error}") from None
    if not 200 <= status < 300:
        raise NotDelivered(f"it answered {status}", is_final=status == 410)


def _post(
    parts: SplitResult, policy: WebhookPolicy, headers: Mapping[str, str], body: bytes, timeout: float
) -> int:  # fmt: skip
    host = parts.hostname or ""
    is_tls = parts.scheme == "https"
    port = parts.port or (443 if is_tls else 80)
    addresses = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if not policy.names(host) and not all(map(is_public, addresses)):
        raise NotDelivered(f"{host} has a private address, and webhook_hosts does not name it")
    connection = (HTTPSConnection if is_tls else HTTPConnection)(host, port, timeout=timeout)
    connection.sock = _connect(addresses, port, timeout)
    try:
        if is_tls:
            connection.sock = ssl.create_default_context().wrap_socket(connection.sock, server_hostname=host)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", path, body, dict(headers))
        answer = connection.getresponse()
        answer.read(_ANSWER)
        return answer.status
    finally:
        connection.close()


def _connect(addresses: list[str], port: int, timeout: float) -> socket.socket:
    failure: OSError = OSError("the name has no address")
    for address in addresses:
        try:
            return socket.create_connection((address, port), timeout)
        except OSError as error:
            failure = error
    raise failure


def is_public(address: str) -> bool:
    """Return whether an address is one of the public internet, by whatever form of IPv6 it is written."""
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is not None:
            return is_public(str(found.ipv4_mapped))
        if found.sixtofour is not None or found.teredo is not None or found in _TRANSLATED:
            return False
    return found.is_global and not found.is_multicast
