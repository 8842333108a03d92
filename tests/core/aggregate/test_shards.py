"""What parts of a topic do with states and entries that are none, and with late events."""

import dataclasses
from zlib import crc32

import msgspec
import orjson
import pytest

from pushsvc.aggregate.aggregate import Aggregate
from pushsvc.stats.serialize import InvalidState
from pushsvc.worker.shards.pool import PartFailed, Split
from support.accounts.numbers import NOW, Reader, T
from support.accounts.parts import PARTS, Beside, names_and, split_of

PLACES = ((0, 0), (0, 100), (1, 0), (1, 100))
"""Parts of four keys, and the numbers from which on to look for their names."""


def test_a_state_of_other_settings_or_no_state_is_refused():
    split = split_of(NOW)
    split.apply("t", 1, T, b'{"key":"a","x":1}', told=False)
    data = b"".join(split.save())
    for settings, given_data in (
        (dataclasses.replace(split._settings, parts=2), data),
        (dataclasses.replace(split._settings, cadence=7), data),
        (split._settings, b"nothing"),
        (split._settings, data[:-1]),
    ):
        with pytest.raises(InvalidState):
            Split.restore(settings, given_data, Beside)
    state = msgspec.msgpack.decode(data)
    state[-1][1] = b"of a part"
    with pytest.raises(InvalidState):
        Split.restore(split._settings, msgspec.msgpack.encode(state), Beside)


def test_an_entry_that_cannot_be_read_counts_nothing_and_ends_nothing():
    split = split_of(NOW)
    split.apply("t", 1, T, b'{"key":"a","x":1}', told=False)
    split.apply("t", 2, T, b"no JSON", told=False)
    split.apply("t", 3, T, b'{"key":"a","x":2}', told=False)
    (rows, _) = names_and(split.snapshot("t", "10s"))
    assert rows["a", "x"][0] == 2


def test_an_entry_that_makes_a_part_fail_is_named(monkeypatch):
    split = split_of(NOW)
    apply = Aggregate.apply
    monkeypatch.setattr(
        Aggregate, "apply", lambda self, name, offset, *rest: apply(self, name, 1 // (offset - 2), *rest)
    )
    for offset in (1, 2, 3):
        split.apply("t", offset, T, b'{"key":"a","x":1}', told=False)
    with pytest.raises(PartFailed) as raised:
        split.due(T)
    assert raised.value.place == ("t", 2)


def test_late_events_are_told_once():
    split = split_of(NOW)
    split.apply("t", 1, T + 100_000, orjson.dumps({"key": "a", "time": T - 600_000}), told=True)
    split.apply("t", 2, T + 100_000, orjson.dumps({"key": "b", "time": T - 600_000}), told=False)
    split.due(T + 100_000)
    assert (split.topics["t"].late, split.topics["t"].told_late) == (2, 1)


def test_other_keys_are_gone_when_no_part_has_any():
    """One key of each part has a row of its own; the other one leaves its window earlier in part 0 than in part 1."""
    split, reader, now = split_of(NOW, max_keys=1), Reader(), T
    names = [next(n for n in map(str, range(k, 1_000)) if crc32(n.encode()) % PARTS == part) for part, k in PLACES]
    for place, name in enumerate(names):
        now = T + 3_000 * (place // 2)
        split.apply("t", place + 1, now, orjson.dumps({"key": name}), told=False)
    held = []
    while now is not None:
        split.advance(now)
        reader.take(split.due(now))
        held.append(reader.windows.get("10s", {}).get(("__other__", None), [None])[0])
        now = split.wake_at()
    assert [count for count, before in zip(held, [None, *held], strict=False) if count != before] == [2, 1, 0, None]
