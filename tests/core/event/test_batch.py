"""Batches: concatenated, selected, split, and their repeated ids."""

from __future__ import annotations

from pushsvc.event import Batch, Event

mixed = Batch.from_events([Event(id="a", data={"n": 1}), Event(time=7, data={"n": 2}), Event(id="b"), Event(id="a")])


def numbered(count: int) -> Batch:
    return Batch.from_events([Event(id=f"{n}", data={"n": n}) for n in range(count)])


def test_a_batch_has_the_stored_form_of_its_events() -> None:
    assert mixed == Batch(
        b'{"id":"a","n":1}\n{"time":7,"n":2}\n{"id":"b"}\n{"id":"a"}', 4, ["a", "", "b", "a"], [None, 7, None, None]
    )
    assert Batch.from_events([Event(), Event(data={"n": 1})]) == Batch(b'{}\n{"n":1}', 2)


def test_concatenate_keeps_the_order() -> None:
    plain, timed = Batch.from_events([Event()]), Batch.from_events([Event(time=5)])
    assert Batch.concatenate([plain, plain]) == Batch(b"{}\n{}", 2)
    assert Batch.concatenate([plain, timed]) == Batch(b'{}\n{"time":5}', 2, None, [None, 5])
    assert Batch.concatenate([numbered(1), plain]).ids == ["0", ""]


def test_select_and_without_take_positions() -> None:
    assert mixed.select([3, 1]) == Batch(b'{"id":"a"}\n{"time":7,"n":2}', 2, ["a", ""], [None, 7])
    assert mixed.without({0, 1}) == Batch(b'{"id":"b"}\n{"id":"a"}', 2, ["b", "a"], [None, None])
    assert mixed.without(()) is mixed


def test_repeated_ids_are_positions_of_later_events() -> None:
    assert mixed.repeated_ids() == {3}
    assert numbered(3).repeated_ids() == Batch.from_events([Event(), Event()]).repeated_ids() == set()
    assert Batch.from_events([Event(id="a"), Event(), Event(), Event(id="a"), Event(id="a")]).repeated_ids() == {3, 4}


def test_split_limits_events_and_bytes_but_not_single_events() -> None:
    batch = numbered(5)
    assert list(batch.split(5, len(batch.data))) == [batch]
    pieces = list(batch.split(2, 1_000))
    assert [(piece.count, piece.ids) for piece in pieces] == [(2, ["0", "1"]), (2, ["2", "3"]), (1, ["4"])]
    assert Batch.concatenate(pieces) == batch
    assert [piece.count for piece in batch.split(5, 40)] == [2, 2, 1]
    assert [piece.count for piece in batch.split(5, 1)] == [1] * 5
