"""State as bytes and back, exactly: every array, number and shared reference.

Not pickle, which runs what it reads: only objects of the classes given are made, and only their attributes are set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

FORMAT = 1

_ARRAY_OF_FOUR, _ARRAY = b"\x94", b"\xdd"
"""How MessagePack begins an array of four elements, and one whose length follows in four bytes."""


class NotFrozen(ValueError):
    """The bytes are not a state of these classes as they are now."""


def no_pause() -> None:
    """Go on at once."""


def freeze(root: object, classes: Iterable[type], form: Sequence[Any] = (), without: Iterable[str] = ()) -> bytes:
    """Return the state of ``root`` and all it refers to; attributes named in ``without`` are left out.

    ``form`` are numbers and texts that the arrays' meaning depends on.
    """
    return b"".join(freeze_parts(root, classes, form, without))


def freeze_parts(
    root: object,
    classes: Iterable[type],
    form: Sequence[Any] = (),
    without: Iterable[str] = (),
    pause: Callable[[], None] = no_pause,
) -> Iterator[bytes]:
    """Yield what ``freeze`` returns, in parts of any size, so that it is never in memory twice.

    Nothing may change meanwhile. ``pause`` is called between objects.
    """
    writer = _Writer({cls: cls.__name__ for cls in classes}, frozenset(without), pause)
    top = writer.put(root)
    shapes = {name: _attributes_of(cls) for cls, name in writer.names.items()}
    encode = msgspec.msgpack.Encoder().encode
    yield _ARRAY_OF_FOUR + encode([FORMAT, *form]) + encode(shapes)
    yield _ARRAY + len(writer.objects).to_bytes(4, "big")
    for described in writer.objects:
        yield encode(described)
        pause()
    yield encode(top)


def thaw(data: bytes, classes: Iterable[type], form: Sequence[Any] = (), pause: Callable[[], None] = no_pause) -> Any:
    """Return the object that ``data`` is the state of; raise NotFrozen where it is none, or of others."""
    known = {cls.__name__: cls for cls in classes}
    try:
        own_form, shapes, objects, top = msgspec.msgpack.decode(data)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        raise NotFrozen(f"not a state: {error}") from None
    if own_form != [FORMAT, *form] or shapes != {name: _attributes_of(cls) for name, cls in known.items()}:
        raise NotFrozen("a state of another version")
    try:
        return _Reader(known, objects, pause).get(top)
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise NotFrozen(f"not a state: {error!r}") from None


def _attributes_of(cls: type) -> list[str]:
    """Return the attributes that make a class what it is now: those declared, or assigned in ``__init__``."""
    declared = getattr(cls, "__slots__", None)
    if declared is not None:
        return sorted(declared)
    makers = [vars(base)["__init__"] for base in cls.__mro__[:-1] if "__init__" in vars(base)]
    return sorted({name for maker in makers for name in maker.__code__.co_names})


class _Writer:
    def __init__(self, names: dict[type, str], without: frozenset[str], pause: Callable[[], None]) -> None:
        self.names = names
        self.objects: list[Any] = []
        self._without = without
        self._pause = pause
        self._known: dict[int, int] = {}
        self._kept: list[Any] = []

    def put(self, value: Any) -> Any:
        """Return what stands for ``value``."""
        if value is None or type(value) in (bool, int, float, str, bytes):
            return value
        if isinstance(value, np.generic):
            return value.item()
        if id(value) not in self._known:
            self._known[id(value)] = number = len(self.objects)
            self._kept.append(value)  # so that no other gets its id
            self.objects.append(None)
            self.objects[number] = self._describe(value)
            self._pause()
        return [self._known[id(value)]]

    def _describe(self, value: Any) -> list[Any]:
        if isinstance(value, np.ndarray):
            return [
                "array",
                value.dtype.str,
                list(value.shape),
                np.ascontiguousarray(value).reshape(-1).view(np.uint8).data,
            ]
        if isinstance(value, dict) and type(value) is dict:
            return ["dict", [[self.put(key), self.put(one)] for key, one in value.items()]]
        if type(value) in (list, tuple, set):
            return [type(value).__name__, [self.put(one) for one in value]]
        name = self.names.get(type(value))
        if name is None:
            raise TypeError(f"{type(value).__name__} cannot be frozen")
        return [name, {key: self.put(one) for key, one in _items(value) if key not in self._without}]


def _items(value: object) -> list[tuple[str, Any]]:
    names = getattr(type(value), "__slots__", None)
    return [(name, getattr(value, name)) for name in names] if names is not None else list(vars(value).items())


class _Reader:
    def __init__(self, classes: dict[str, type], objects: list[Any], pause: Callable[[], None]) -> None:
        self._classes = classes
        self._objects = objects
        self._pause = pause
        self._made: dict[int, Any] = {}

    def get(self, value: Any) -> Any:
        """Return what ``value`` stands for."""
        if type(value) is not list:
            return value
        (number,) = value
        if number not in self._made:
            self._make(number, *self._objects[number])
            self._pause()
        return self._made[number]

    def _make(self, number: int, kind: str, content: Any, *rest: Any) -> None:
        if kind == "array":
            shape, data = rest
            flat = np.frombuffer(data, content)
            self._made[number] = np.ndarray(shape, flat.dtype, flat.copy().data)
            if self._made[number].size != flat.size:
                raise NotFrozen("an array of another size than its data")
        elif kind == "tuple":
            self._made[number] = tuple(map(self.get, content))
        elif kind == "dict":
            made: dict[Any, Any] = {}
            self._made[number] = made
            made.update((self.get(key), self.get(one)) for key, one in content)
        elif kind == "list":
            filled: list[Any] = []
            self._made[number] = filled
            filled.extend(map(self.get, content))
        elif kind == "set":
            self._made[number] = set(map(self.get, content))
        else:
            self._make_object(number, self._classes[kind], content)

    def _make_object(self, number: int, cls: type, content: dict[str, Any]) -> None:
        thing: Any = object.__new__(cls)
        self._made[number] = thing
        known = _attributes_of(cls)
        for name, one in content.items():
            if name not in known:
                raise NotFrozen(f"{cls.__name__} has no attribute {name!r}")
            object.__setattr__(thing, name, self.get(one))
