"""Which addresses belong to one client."""

from __future__ import annotations

from ipaddress import ip_address


def network_of(address: str, *, loopback_counts: bool = False) -> bytes | None:
    """Return the bytes that the addresses of one client share; None for an address that has no limit of its own.

    Loopback addresses have none: they belong to a proxy on this machine, which forwards everybody, or to a local user.
    Of an IPv6 address the first 64 bits count, because one client usually has all addresses of such a network.
    """
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return None
    if ip.version == 6 and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if ip.is_loopback and not loopback_counts:
        return None
    return ip.packed[:8] if ip.version == 6 else ip.packed
