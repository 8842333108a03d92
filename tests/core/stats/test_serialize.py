import msgspec
import numpy as np
import pytest

from pushsvc.stats.serialize import VERSION, InvalidState, deserialize, serialize


class Box:
    STATE = ("held",)

    def __init__(self, held):
        self.held = held


def test_arrays_and_shared_references_come_back():
    array = np.arange(6, dtype=np.int32).reshape(2, 3)
    box = Box([array, {"a": array, 1: (None, 2.5, b"x", {"s"})}])
    found = deserialize(b"".join(serialize(box, [Box])), [Box])
    assert found.held[0].dtype == np.int32
    assert np.array_equal(found.held[0], array)
    assert found.held[1]["a"] is found.held[0]
    assert found.held[1][1] == (None, 2.5, b"x", {"s"})


def test_object_of_an_unknown_class_is_refused():
    with pytest.raises(TypeError, match="object cannot be serialized"):
        list(serialize(Box(object()), [Box]))


def test_parameters_must_be_equal():
    data = b"".join(serialize(Box(1), [Box], parameters=(19, 16)))
    assert deserialize(data, [Box], parameters=(19, 16)).held == 1
    with pytest.raises(InvalidState, match="another version"):
        deserialize(data, [Box], parameters=(20, 16))


def state(objects, top=(0,)):
    return msgspec.msgpack.encode([[VERSION], {"Box": ["held"]}, objects, list(top)])


def test_bytes_that_are_no_state_are_refused():
    for data in [
        b"", b"\x94\x01", state([]), state([[]]), state([["list", [[7]]]]), state([["tuple", [[0]]]]),
        state([["dict", [[[1], 1]]], ["list", []]]), state([["array", "O", [1], bytes(8)]]),
        state([["array", "<i8", [-2], bytes(8)]]), state([["Box", [1, 2]]]), state([["Box", []]]),
        state([["Other", []]]), state([["list", [[n + 1]]] for n in range(5_000)] + [["list", []]]),
    ]:  # fmt: skip
        with pytest.raises(InvalidState):
            raise AssertionError(f"{data[:80]!r} is accepted: {deserialize(data, [Box])}")
