"""Who a request comes from, where trusted proxies forward it. No I/O.

A proxy adds the address of its peer at the right of ``X-Forwarded-For`` or ``Forwarded`` (RFC 7239). What stands at its
left came with the request, so anybody may have written it. The headers are read from the right, and only as far as the
address that was read last is a trusted proxy. Without trusted proxies nothing reads them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import NamedTuple

_MOST_HOPS = 32
_NAMES = ("forwarded", "x-forwarded-for", "x-forwarded-proto")
_WORD = "[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PAIR = re.compile(rf"""[ \t]*(?:({_WORD})=({_WORD}|"[^"\\\x00-\x1f]*"))?[ \t]*""")
_WITH_PORT = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?|([0-9.]+):[0-9]{1,5}")
_KEPT_LENGTH = 300  # bytes of headers whose result is remembered


class AmbiguousClient(ValueError):
    """The headers of a trusted proxy are malformed, or name two clients."""


class Client(NamedTuple):
    """The address of a client and, if a trusted proxy tells it, the scheme that the client used.

    ``forwarded`` is true if the address was read from a header.
    """

    address: str
    scheme: str | None = None
    forwarded: bool = False


class _Hop(NamedTuple):
    """What one proxy says: the address of its peer, and the scheme by which that was connected."""

    address: str
    scheme: str | None


class TrustedProxies:
    """The networks of proxies whose headers tell the client. An empty one trusts nobody."""

    def __init__(self, networks: Sequence[str] = ()) -> None:
        self._networks = tuple(map(ip_network, networks))
        self._contains = lru_cache(1_024)(self._is_in)
        self._remembered = lru_cache(1_024)(self._find)

    def __bool__(self) -> bool:
        return bool(self._networks)

    def __contains__(self, address: str) -> bool:
        return bool(self._networks) and self._contains(address)

    def client(self, peer: str, headers: Mapping[str, str]) -> Client:
        """Return the client of a request that ``peer`` sent. ``headers`` have names in lower case.

        Raise AmbiguousClient if a trusted proxy sends both headers and they disagree: it passes one of them on as its
        own client wrote it.
        """
        if peer not in self:
            return Client(peer)
        values = [headers.get(name) for name in _NAMES]
        if sum(len(value) for value in values if value is not None) > _KEPT_LENGTH:
            return self._find(peer, *values)
        return self._remembered(peer, *values)

    def _is_in(self, address: str) -> bool:
        ip = _read_address(address.partition("%")[0])
        return ip is not None and any(ip in network for network in self._networks)

    def _find(self, peer: str, forwarded: str | None, listed: str | None, schemes: str | None) -> Client:
        found = []
        if forwarded is not None:
            found.append(self._walk(peer, _forwarded_hops(forwarded)))
        if listed is not None:
            found.append(self._walk(peer, _listed_hops(listed, schemes)))
        if len(found) == 2 and found[0].address != found[1].address:
            raise AmbiguousClient(
                "Forwarded and X-Forwarded-For name different clients: the proxy must remove what it does not set"
            )
        if not found:
            return Client(peer, _scheme((schemes or "").rpartition(",")[2]))
        return found[0]

    def _walk(self, peer: str, hops: Sequence[_Hop]) -> Client:
        """Return the first address from the right that is no trusted proxy. An address that cannot be read ends the
        walk: then the client is the proxy that reports it."""
        address, scheme = peer, None
        for hop in hops[: -_MOST_HOPS - 1 : -1]:
            scheme = hop.scheme or scheme
            ip = _read_address(_without_port(hop.address))
            if ip is None:
                break
            address = str(ip)
            if address not in self:
                break
        return Client(address, scheme, forwarded=True)


def _listed_hops(text: str, schemes: str | None) -> list[_Hop]:
    """Return the hops of X-Forwarded-For. The schemes belong to them from the right; one alone belongs to all."""
    addresses = [one.strip(" \t") for one in text.split(",")]
    named = [_scheme(one) for one in schemes.split(",")] if schemes is not None else [None]
    if len(named) == 1:
        named *= len(addresses)
    named = [None] * (len(addresses) - len(named)) + named[-len(addresses) :]
    return list(map(_Hop, addresses, named))


def _forwarded_hops(text: str) -> list[_Hop]:
    """Return the hops of a header Forwarded. Raise AmbiguousClient if it is malformed: a quotation mark that the client
    left open could swallow what the proxy added."""
    hops, position = [], 0
    pairs: dict[str, str] = {}
    while True:
        found = _PAIR.match(text, position)
        if found is None:
            raise AmbiguousClient("the header Forwarded is malformed")
        if found[1] is not None:
            name = found[1].lower()
            if name in pairs:
                raise AmbiguousClient(f"the header Forwarded has two {name} in one element")
            pairs[name] = found[2].strip('"')
        position = found.end()
        separator = text[position : position + 1]
        if separator in (",", ""):
            hops.append(_Hop(pairs.get("for", ""), _scheme(pairs.get("proto", ""))))
            pairs = {}
            if not separator:
                return hops
        elif separator != ";":
            raise AmbiguousClient("the header Forwarded is malformed")
        position += 1


def _without_port(text: str) -> str:
    found = _WITH_PORT.fullmatch(text)
    return text if found is None else found[1] or found[2]


def _read_address(text: str) -> IPv4Address | IPv6Address | None:
    """Return an address; None for any other text, such as ``unknown``, and for one with a zone."""
    try:
        ip = None if "%" in text else ip_address(text)
    except ValueError:
        return None
    return ip.ipv4_mapped or ip if isinstance(ip, IPv6Address) else ip


def _scheme(text: str) -> str | None:
    scheme = text.strip(" \t").lower()
    return scheme if scheme in ("http", "https") else None
