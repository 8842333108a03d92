"""Objects to bytes and back, exactly: every array, every number and every shared reference.

Unlike pickle, reading runs no code of the data: it makes objects of the given classes only, and sets their declared
attributes only. A class declares its attributes as ``STATE``, a dataclass as its fields. Attributes in ``DERIVED`` are
not saved: the caller of ``deserialize`` sets them anew.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import msgspec
import numpy as np

from pushsvc.pause import Pause, no_pause

# To be raised when the layout changes, or when an attribute keeps its name but changes its meaning.
VERSION = 3
_ARRAY_OF_FOUR, _ARRAY = b"\x94", b"\xdd"  # prefixes in MessagePack; the length of the second array has four bytes


class InvalidState(ValueError):
    """The bytes are not a state of these classes in this version."""


def state_of(cls: type) -> tuple[str, ...]:
    """Return the names of the saved attributes of a class."""
    if is_dataclass(cls):
        return tuple(field.name for field in fields(cls))
    state: tuple[str, ...] = cls.STATE  # type: ignore[attr-defined]
    return state


def serialize(
    root: object, classes: Iterable[type], parameters: Sequence[Any] = (), pause: Pause = no_pause
) -> Iterator[bytes]:
    """Yield the state of ``root`` and of everything it refers to, in parts of any size: it is never in memory twice.
    The meaning of arrays depends on ``parameters``. Nothing may change meanwhile, nor in ``pause`` between objects."""
    schema = {cls: state_of(cls) for cls in classes}
    writer = _Writer(schema, pause)
    top = writer.put(root)
    encode = msgspec.msgpack.Encoder().encode
    yield _ARRAY_OF_FOUR + encode([VERSION, *parameters]) + encode(_by_name(schema))
    yield _ARRAY + len(writer.objects).to_bytes(4, "big")
    for described in writer.objects:
        yield encode(described)
        pause()
    yield encode(top)


def deserialize(data: bytes, classes: Iterable[type], parameters: Sequence[Any] = (), pause: Pause = no_pause) -> Any:
    """Return the object whose state is ``data``, made by ``serialize`` with equal arguments; raise InvalidState."""
    schema = {cls: state_of(cls) for cls in classes}
    try:
        header, saved_schema, objects, top = msgspec.msgpack.decode(data)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        raise InvalidState(f"not a state: {error}") from None
    if header != [VERSION, *parameters] or saved_schema != _by_name(schema):
        raise InvalidState("a state of another version")
    try:
        return _Reader(schema, objects, pause).get(top)
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InvalidState(f"not a state: {error!r}") from None


def _by_name(schema: dict[type, tuple[str, ...]]) -> dict[str, list[str]]:
    return {cls.__name__: list(state) for cls, state in schema.items()}


class _Writer:
    """Numbers the objects below a root in the order in which they are met."""

    def __init__(self, schema: dict[type, tuple[str, ...]], pause: Pause) -> None:
        self.objects: list[Any] = []
        self._schema = schema
        self._pause = pause
        self._numbers: dict[int, int] = {}
        self._alive: list[Any] = []

    def put(self, value: Any) -> Any:
        """Return a plain value as it is, and [number] for an object."""
        if value is None or type(value) in (bool, int, float, str, bytes):
            return value
        if isinstance(value, np.generic):
            return value.item()
        if id(value) not in self._numbers:
            self._numbers[id(value)] = number = len(self.objects)
            self._alive.append(value)  # so that no other object gets its id
            self.objects.append(None)
            self.objects[number] = self._describe(value)
            self._pause()
        return [self._numbers[id(value)]]

    def _describe(self, value: Any) -> list[Any]:
        if isinstance(value, np.ndarray):
            data = np.ascontiguousarray(value).reshape(-1).view(np.uint8).data
            return ["array", value.dtype.str, list(value.shape), data]
        if type(value) is dict:
            return ["dict", [[self.put(key), self.put(one)] for key, one in value.items()]]
        if type(value) in (list, tuple, set):
            return [type(value).__name__, [self.put(one) for one in value]]
        state = self._schema.get(type(value))
        if state is None:
            raise TypeError(f"{type(value).__name__} cannot be serialized")
        return [type(value).__name__, [self.put(getattr(value, name)) for name in state]]


class _Reader:
    """Makes objects from their descriptions, each one when it is first referred to."""

    def __init__(self, schema: dict[type, tuple[str, ...]], objects: list[Any], pause: Pause) -> None:
        self._classes: dict[str, tuple[Any, Any]] = {cls.__name__: (cls, state) for cls, state in schema.items()}
        self._objects = objects
        self._pause = pause
        self._made: dict[int, Any] = {}

    def get(self, value: Any) -> Any:
        """Return what ``_Writer.put`` was given for ``value``."""
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
                raise InvalidState("an array of another size than its data")
        elif kind == "tuple":
            self._made[number] = tuple(map(self.get, content))
        elif kind == "dict":
            self._made[number] = {}  # before its members, which may refer to it
            self._made[number].update((self.get(key), self.get(one)) for key, one in content)
        elif kind == "list":
            self._made[number] = []
            self._made[number].extend(map(self.get, content))
        elif kind == "set":
            self._made[number] = set(map(self.get, content))
        else:
            cls, state = self._classes[kind]
            made_object = self._made[number] = object.__new__(cls)
            for name, one in zip(state, content, strict=True):
                object.__setattr__(made_object, name, self.get(one))  # frozen dataclasses refuse setattr
