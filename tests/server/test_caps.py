from __future__ import annotations

from collections.abc import Iterator

import pytest

from pushsvc.server.caps import Caps, Table


@pytest.fixture
def table() -> Iterator[Table]:
    made = Table(2)
    yield made
    made.close()


def test_without_caps_all_are_admitted() -> None:
    caps = Caps()
    assert [caps.take("192.0.2.1") for _ in range(1_000)] == [None] * 1_000


def test_the_total_counts_over_all_workers(table: Table) -> None:
    one, two = (Caps(3, table=table.descriptor, row=row) for row in (1, 2))
    assert [one.take("192.0.2.1"), two.take("192.0.2.2"), one.take("::1")] == [None] * 3
    assert one.take("192.0.2.3") == two.take("192.0.2.3") == "this host holds 3 connections, the most it takes"
    two.give_back("192.0.2.2")
    assert one.take("192.0.2.3") is None


def test_an_address_counts_over_all_workers(table: Table) -> None:
    one, two = (Caps(0, 2, table=table.descriptor, row=row) for row in (1, 2))
    assert [one.take("192.0.2.1"), two.take("192.0.2.1")] == [None] * 2
    assert two.take("192.0.2.1") == "your address holds 2 connections, the most one may have"
    assert two.take("192.0.2.2") is None
    one.give_back("192.0.2.1")
    assert two.take("192.0.2.1") is None


def test_what_a_dead_worker_counted_is_forgotten(table: Table) -> None:
    one, two = (Caps(2, table=table.descriptor, row=row) for row in (1, 2))
    assert [one.take("192.0.2.1"), one.take("192.0.2.1")] == [None] * 2
    assert two.take("192.0.2.1") is not None
    table.clear(1)
    assert two.take("192.0.2.1") is None
    assert Caps(2, table=table.descriptor, row=1).take("192.0.2.1") is None


def test_a_network_of_ipv6_is_one_address() -> None:
    caps = Caps(0, 1)
    assert caps.take("2001:db8::1") is None
    assert caps.take("2001:db8::2") is not None
    assert caps.take("2001:db8:0:1::1") is None
    assert caps.take("::ffff:192.0.2.1") is None
    assert caps.take("192.0.2.1") is not None


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1", ""])
def test_this_machine_counts_in_the_total_alone(address: str) -> None:
    caps = Caps(3, 1)
    assert [caps.take(address) for _ in range(3)] == [None] * 3
    assert caps.take(address) is not None
