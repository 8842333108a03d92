import msgspec
import numpy as np
import pytest

from pushsvc.stats.freeze import FORMAT, NotFrozen, freeze, thaw


class Box:
    def __init__(self, held):
        self.held = held


def test_arrays_and_shared_references_come_back():
    array = np.arange(6, dtype=np.int32).reshape(2, 3)
    box = Box([array, {"a": array, 1: (None, 2.5, b"x", {"s"})}])
    found = thaw(freeze(box, [Box]), [Box])
    assert found.held[0].dtype == np.int32
    assert np.array_equal(found.held[0], array)
    assert found.held[1]["a"] is found.held[0]
    assert found.held[1][1] == (None, 2.5, b"x", {"s"})


def test_what_is_of_no_known_class_is_not_frozen():
    with pytest.raises(TypeError, match="object cannot be frozen"):
        freeze(Box(object()), [Box])


def test_the_form_must_be_the_same():
    data = freeze(Box(1), [Box], form=(19, 16))
    assert thaw(data, [Box], form=(19, 16)).held == 1
    with pytest.raises(NotFrozen, match="another version"):
        thaw(data, [Box], form=(20, 16))


def state(objects, top=(0,)):
    return msgspec.msgpack.encode([[FORMAT], {"Box": ["held"]}, objects, list(top)])


def test_what_is_no_state_is_refused():
    for data in [
        b"", b"\x94\x01", state([]), state([[]]), state([["list", [[7]]]]), state([["tuple", [[0]]]]),
        state([["dict", [[[1], 1]]], ["list", []]]), state([["array", "O", [1], bytes(8)]]),
        state([["array", "<i8", [-2], bytes(8)]]), state([["Box", {"__class__": 1}]]), state([["Box", {"other": 1}]]),
        state([["Other", {}]]), state([["list", [[n + 1]]] for n in range(5_000)] + [["list", []]]),
    ]:  # fmt: skip
        with pytest.raises(NotFrozen):
            raise AssertionError(f"{data[:80]!r} is thawed: {thaw(data, [Box])}")
