from __future__ import annotations

from collections.abc import Iterator

import pytest

from pushsvc.server.caps import Caps, ConnectionCounts


@pytest.fixture
def table() -> Iterator[ConnectionCounts]:
    made = ConnectionCounts(2)
    yield made
    made.close()


def test_without_caps_every_connection_is_admitted() -> None:
    caps = Caps()
    assert [caps.acquire("192.0.2.1") for _ in range(1_000)] == [None] * 1_000


def test_the_total_is_that_of_all_workers(table: ConnectionCounts) -> None:
    one, two = (Caps(3, table=table.descriptor, row=row) for row in (1, 2))
    assert [one.acquire("192.0.2.1"), two.acquire("192.0.2.2"), one.acquire("::1")] == [None] * 3
    assert one.acquire("192.0.2.3") == two.acquire("192.0.2.3") == "too many connections: this host accepts 3"
    two.release("192.0.2.2")
    assert one.acquire("192.0.2.3") is None


def test_the_count_of_an_address_is_that_of_all_workers(table: ConnectionCounts) -> None:
    one, two = (Caps(0, 2, table=table.descriptor, row=row) for row in (1, 2))
    assert [one.acquire("192.0.2.1"), two.acquire("192.0.2.1")] == [None] * 2
    assert two.acquire("192.0.2.1") == "too many connections from your address: this host accepts 2"
    assert two.acquire("192.0.2.2") is None
    one.release("192.0.2.1")
    assert two.acquire("192.0.2.1") is None


def test_clearing_its_row_forgets_a_dead_worker(table: ConnectionCounts) -> None:
    one, two = (Caps(2, table=table.descriptor, row=row) for row in (1, 2))
    assert [one.acquire("192.0.2.1"), one.acquire("192.0.2.1")] == [None] * 2
    assert two.acquire("192.0.2.1") is not None
    table.clear(1)
    assert two.acquire("192.0.2.1") is None
    assert Caps(2, table=table.descriptor, row=1).acquire("192.0.2.1") is None


def test_an_ipv6_network_counts_as_one_address() -> None:
    caps = Caps(0, 1)
    assert caps.acquire("2001:db8::1") is None
    assert caps.acquire("2001:db8::2") is not None
    assert caps.acquire("2001:db8:0:1::1") is None
    assert caps.acquire("::ffff:192.0.2.1") is None
    assert caps.acquire("192.0.2.1") is not None


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1", ""])
def test_loopback_counts_only_in_the_total(address: str) -> None:
    caps = Caps(3, 1)
    assert [caps.acquire(address) for _ in range(3)] == [None] * 3
    assert caps.acquire(address) is not None
