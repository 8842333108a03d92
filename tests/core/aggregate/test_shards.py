"""Shards of a topic with invalid states and entries, and with late events."""

import dataclasses
from zlib import crc32

import msgspec
import orjson
import pytest

from pushsvc.aggregate.aggregate import Aggregate
from pushsvc.stats.serialize import InvalidState
from pushsvc.worker.engine import EntryFailed
from pushsvc.worker.shards.pool import ShardPool
from support.reference.numbers import NOW, Reader, T
from support.reference.shards import SHARDS, LocalShard, entry_of, names_and, pool_of

PLACES = ((0, 0), (0, 100), (1, 0), (1, 100))
"""Shards of four keys, and the numbers from which to search for their names."""


def test_a_state_of_other_settings_or_no_state_is_refused():
    pool, own = pool_of(NOW), dataclasses.replace(NOW, parts=SHARDS)
    pool.apply_entries("t", [entry_of(1, T, b'{"key":"a","x":1}')], reported=False)
    data = b"".join(pool.save())
    for settings, given_data in (
        (dataclasses.replace(own, parts=2), data),
        (dataclasses.replace(own, cadence=7), data),
        (own, b"nothing"),
        (own, data[:-1]),
    ):
        with pytest.raises(InvalidState):
            ShardPool.restore(settings, given_data, LocalShard)
    state = msgspec.msgpack.decode(data)
    state[-1][1] = b"of a shard"
    with pytest.raises(InvalidState):
        ShardPool.restore(own, msgspec.msgpack.encode(state), LocalShard)


def test_an_unreadable_entry_has_no_events():
    pool = pool_of(NOW)
    pool.apply_entries("t", [entry_of(1, T, b'{"key":"a","x":1}')], reported=False)
    pool.apply_entries("t", [entry_of(2, T, b"no JSON")], reported=False)
    pool.apply_entries("t", [entry_of(3, T, b'{"key":"a","x":2}')], reported=False)
    (rows, _) = names_and(pool.snapshot("t", "10s"))
    assert rows["a", "x"][0] == 2


def test_an_entry_that_makes_a_shard_fail_is_named(monkeypatch):
    pool = pool_of(NOW)
    apply = Aggregate.apply
    monkeypatch.setattr(
        Aggregate, "apply", lambda self, name, offset, *rest: apply(self, name, 1 // (offset - 2), *rest)
    )
    for offset in (1, 2, 3):
        pool.apply_entries("t", [entry_of(offset, T, b'{"key":"a","x":1}')], reported=False)
    with pytest.raises(EntryFailed) as raised:
        pool.due(T)
    assert (raised.value.topic, raised.value.offset) == ("t", 2)


def test_late_events_are_reported_once():
    pool = pool_of(NOW)
    pool.apply_entries("t", [entry_of(1, T + 100_000, orjson.dumps({"key": "a", "time": T - 600_000}))], reported=True)
    pool.apply_entries("t", [entry_of(2, T + 100_000, orjson.dumps({"key": "b", "time": T - 600_000}))], reported=False)
    pool.due(T + 100_000)
    assert (pool.topics["t"].late, pool.topics["t"].reported_late) == (2, 1)


def test_updates_go_on_after_the_clock_of_redis_went_back():
    pool = pool_of(NOW)
    pool.apply_entries("t", [entry_of(1, T, b'{"key":"a","x":1}')], reported=False)
    assert pool.due(T + 5_000)
    pool.apply_entries("t", [entry_of(2, T, b'{"key":"a","x":1}')], reported=False)
    back = T - 3_600_000
    assert {frame.offset for frame in [*pool.due(back), *pool.due(back + 1_000)]} == {2}


def test_other_is_gone_when_no_shard_has_any():
    """One key of each shard has its own row; the other one leaves the window in shard 0 first."""
    pool, reader, now = pool_of(NOW, max_keys=1), Reader(), T
    names = [next(n for n in map(str, range(k, 1_000)) if crc32(n.encode()) % SHARDS == shard) for shard, k in PLACES]
    for place, name in enumerate(names):
        now = T + 3_000 * (place // 2)
        pool.apply_entries("t", [entry_of(place + 1, now, orjson.dumps({"key": name}))], reported=False)
    held = []
    while now is not None:
        pool.advance(now)
        reader.take(pool.due(now))
        held.append(reader.windows.get("10s", {}).get(("__other__", None), [None])[0])
        now = pool.wake_at()
    assert [count for count, before in zip(held, [None, *held], strict=False) if count != before] == [2, 1, 0, None]
