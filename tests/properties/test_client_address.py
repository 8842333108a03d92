"""The address of a client behind proxies: what a client writes itself never counts."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushsvc.server.client_address import AmbiguousClient, Client, TrustedProxies

PROXIES = TrustedProxies(["10.0.0.0/8", "2001:db8:ffff::/48"])
INNER = st.ip_addresses(network="10.0.0.0/8").map(str) | st.ip_addresses(network="2001:db8:ffff::/48").map(str)
OUTER = st.ip_addresses().filter(lambda ip: str(ip) not in PROXIES and not getattr(ip, "ipv4_mapped", None)).map(str)
WRITTEN = st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=60)


def as_node(address: str) -> str:
    return f'"[{address}]:4711"' if ":" in address else address


@given(st.lists(WRITTEN, max_size=3), OUTER, st.lists(INNER, max_size=3), INNER)
def test_the_address_before_the_trusted_hops_is_the_client(
    forged: list[str], client: str, hops: list[str], peer: str
) -> None:
    """A client may write anything. The first proxy adds the client's address at the right, each other one its peer."""
    header = ", ".join([*forged, client, *hops])
    assert PROXIES.client(peer, {"x-forwarded-for": header}) == Client(client, None, forwarded=True)


@given(WRITTEN, OUTER, st.lists(INNER, max_size=3), INNER)
def test_what_a_client_writes_into_forwarded_never_counts(forged: str, client: str, hops: list[str], peer: str) -> None:
    header = ", ".join([forged, *(f"for={as_node(one)};proto=https" for one in [client, *hops])])
    try:
        found = PROXIES.client(peer, {"forwarded": header})
    except AmbiguousClient:
        return  # an open quotation mark, or no list of parameters
    assert found == Client(client, "https", forwarded=True)


@given(OUTER, st.dictionaries(st.sampled_from(["forwarded", "x-forwarded-for", "x-forwarded-proto"]), WRITTEN))
def test_the_headers_of_anybody_else_are_not_read(peer: str, headers: dict[str, str]) -> None:
    assert PROXIES.client(peer, headers) == Client(peer)
    assert TrustedProxies().client("10.0.0.1", headers) == Client("10.0.0.1")


@given(INNER, st.dictionaries(st.sampled_from(["forwarded", "x-forwarded-for", "x-forwarded-proto"]), WRITTEN))
def test_the_result_is_always_an_address(peer: str, headers: dict[str, str]) -> None:
    try:
        client = PROXIES.client(peer, headers)
    except AmbiguousClient:
        return
    ip_address(client.address)
    assert client.scheme in (None, "http", "https")


FORMS = [
    ("203.0.113.7:4711", "203.0.113.7"),
    ("[2001:db8::7]", "2001:db8::7"),
    ("[2001:DB8::7]:4711", "2001:db8::7"),
    ("2001:db8:0:0::7", "2001:db8::7"),
    ("::ffff:203.0.113.7", "203.0.113.7"),
    ("203.0.113.9, unknown", "10.0.0.1"),
    ("203.0.113.9, fe80::1%x", "10.0.0.1"),
    ("203.0.113.9,", "10.0.0.1"),
    ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
]


@pytest.mark.parametrize(("written", "address"), FORMS)
def test_the_forms_of_an_address(written: str, address: str) -> None:
    assert PROXIES.client("10.0.0.1", {"x-forwarded-for": written}).address == address


def test_the_scheme_is_that_of_the_client() -> None:
    both = {"x-forwarded-for": "203.0.113.7, 10.0.0.9"}
    assert PROXIES.client("10.0.0.1", both | {"x-forwarded-proto": "https, http"}).scheme == "https"
    assert PROXIES.client("10.0.0.1", both | {"x-forwarded-proto": "https"}).scheme == "https"
    assert PROXIES.client("10.0.0.1", both | {"x-forwarded-proto": "gopher"}).scheme is None
    assert PROXIES.client("10.0.0.1", {"x-forwarded-proto": "https"}) == Client("10.0.0.1", "https")


def test_two_headers_must_agree() -> None:
    agreed = {"x-forwarded-for": "203.0.113.7", "forwarded": "for=203.0.113.7"}
    assert PROXIES.client("10.0.0.1", agreed).address == "203.0.113.7"
    with pytest.raises(AmbiguousClient, match="different clients"):
        PROXIES.client("10.0.0.1", agreed | {"forwarded": "for=203.0.113.8"})


@pytest.mark.parametrize(
    "header", ['for="x, for=203.0.113.7', 'for=a;by=", for="[2001:db8::7]"', "for=a for=b", "for=a;for=b", "for"]
)
def test_a_malformed_header_of_a_trusted_proxy_is_refused(header: str) -> None:
    with pytest.raises(AmbiguousClient):
        PROXIES.client("10.0.0.1", {"forwarded": header})
