"""Revoked subjects in a real Redis."""

from __future__ import annotations

import time
from collections import ChainMap
from collections.abc import Callable

import pytest

from pushsvc.broker import revocations
from pushsvc.broker.broker import Broker
from pushsvc.broker.revocations import RevocationStore
from pushsvc.errors import TooManyRevocations
from support.waiting import turn_until, until

MakeStore = Callable[..., RevocationStore]


@pytest.fixture
def store_of(broker: Broker) -> MakeStore:
    return lambda **limits: RevocationStore(broker.keys, broker.connections, **limits)


def listed(store: RevocationStore) -> dict[str, float]:
    return dict(ChainMap(*reversed(list(store.read()))))


def test_revocations_are_read_as_they_were_written(store_of: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocations, "_PAGE", 3)
    store = store_of()
    times = {subject: store.revoke(subject, 60) for subject in ("u 42", "ü", "{a}", "b", "c", "d", "e")}
    assert listed(store) == times
    assert abs(times["b"] - time.time()) < 60
    again = store.revoke("b", 60)
    assert listed(store) == times | {"b": again}
    assert again >= times["b"]


def test_every_process_is_notified(broker: Broker, store_of: MakeStore) -> None:
    store = store_of()
    found: list[tuple[str, float]] = []

    def notice(channel: str, message: bytes) -> None:
        assert channel == store.channel
        if message:
            found.append(store.parse(message))

    live = broker.live_connection(lambda *_: False, lambda _: None, on_unhandled=notice)
    live.subscribe(store.channel)
    live.start()
    turn_until(lambda: live.is_confirmed(store.channel))
    revoked = store.revoke("u 42", 60)
    turn_until(lambda: found)
    assert found == [("u 42", revoked)]
    live.close()


def test_old_revocations_are_forgotten_and_new_ones_are_refused_without_room(store_of: MakeStore) -> None:
    store = store_of(most=2)
    for subject in ("a", "b", "a"):
        store.revoke(subject, 60)
    with pytest.raises(TooManyRevocations, match="2 subjects"):
        store.revoke("c", 60)
    assert set(listed(store)) == {"a", "b"}
    until(lambda: store.revoke("a", 0) and set(listed(store)) == {"a"})
    store.revoke("c", 60)
