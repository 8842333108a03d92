"""Values by number: a value of a field is looked up once, and what is counted are integers.

Two values are the same if they are the same JSON: texts letter by letter, numbers by what they are worth (``1`` and
``1.0`` are one value, integers of 64 bits stay exact), ``true`` and ``false`` beside the numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from operator import itemgetter
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pushsvc.stats.arrays import Counts, Flags, Ints, runs_of

LONGEST = 200
"""Characters that are kept of a text. A longer one is told by them and "…", and told apart by a digest of its whole."""

REGISTERS = 12
"""Bits of a hash that choose one of the 4,096 registers of a HyperLogLog."""

RANKS = 6
"""Bits of a rank: how many zeros the rest of a hash begins with, and 1."""

SKETCHED = 1 << 31
"""Marks what is followed by its cell (register and rank) and not by its number."""

NONE = -1
"""Number of no value at all."""

UNTRACKED = 0
"""Number that stands for all values that are not followed one by one."""

_Owner = int
JsonText = bytes
_BYTES = 400
_CROWD = 10_000
_FIRST_CAPACITY = 64
_FALSE, _TRUE = ("false",), ("true",)
_INTEGERS = -(2.0**63), 2.0**64
_encode = msgspec.json.Encoder().encode


class ValueDictionary:
    """The values of fields. An ``owner`` is a field of a topic: the row of its total.

    ``mark[number]`` is what stands for a value where it is counted: its number, or its cell with SKETCHED if the owner
    had ``most`` values already that were followed one by one. ``cell[number]`` is register and rank of any value, and
    ``order[number]`` the first eight bytes of its JSON text. Numbers of values that nobody holds are used again:
    ``short`` tells that some owner may need it. While ``full`` no new value is followed.
    """

    STATE = (
        "full", "short", "mark", "cell", "order", "_most", "_tables", "_tracked", "_keys", "_owner", "_listed", "_free",
        "_swept", "_swept_at",
    )  # fmt: skip

    def __init__(self, most: int) -> None:
        self.full = False
        self.short = False
        self.mark: Ints = np.zeros(_FIRST_CAPACITY, np.int64)
        self.cell: Ints = np.zeros(_FIRST_CAPACITY, np.int64)
        self.order: NDArray[np.uint64] = np.zeros(_FIRST_CAPACITY, np.uint64)
        self._most = most
        self._tables: dict[_Owner, dict[Any, int]] = {}
        self._tracked: dict[_Owner, int] = {}
        self._keys: list[Any] = [None]
        self._owner: Ints = np.full(_FIRST_CAPACITY, NONE)
        self._listed: Flags = np.zeros(_FIRST_CAPACITY, np.bool_)
        self._free: list[int] = []
        self._swept = 0
        self._swept_at = NONE

    @property
    def bytes(self) -> int:
        """Size of what is held, nearly."""
        arrays = (self.mark, self.cell, self.order, self._owner, self._listed)
        return _BYTES * self.used + sum(array.nbytes for array in arrays)

    @property
    def size(self) -> int:
        """All numbers are below this one."""
        return len(self._keys)

    @property
    def used(self) -> int:
        """How many values are held."""
        return self.size - len(self._free)

    def numbers(self, owner: int, values: Sequence[Any], mixed: bool) -> Ints:
        """Return the numbers of values, NONE for None. ``mixed`` tells that there may be booleans among them."""
        table = self._tables.setdefault(owner, {None: NONE})
        if mixed:
            values = [(_TRUE if value else _FALSE) if type(value) is bool else value for value in values]
        try:
            return np.array(itemgetter(*values, None)(table)[:-1], np.int64)
        except KeyError:
            keys = [_shortened(value) if type(value) is str and len(value) > LONGEST else value for value in values]
            self._enter(owner, table, [key for key in dict.fromkeys(keys) if key not in table])
            return np.array([table[key] for key in keys], np.int64)

    def value(self, number: int) -> Any:
        """Return a value as it is told: text as far as it is kept, a whole number as an integer; None for NONE."""
        key = None if number == NONE else self._keys[number]
        if type(key) is tuple:
            return key[0] if len(key) == 2 else key == _TRUE
        return _whole(key) if type(key) is float else key

    def text(self, number: int) -> JsonText:
        """Return the JSON text of a value, by which equals are ordered."""
        return _text_of(self._keys[number])

    def forget(self, owners: Ints) -> None:
        """Forget what belongs to owners, which nothing may refer to any more."""
        chosen = [owner for owner in owners.tolist() if owner in self._tables]
        if chosen:
            for number in np.flatnonzero(np.isin(self._owner[: self.size], chosen)).tolist():
                self._release(number)
            for owner in chosen:
                del self._tables[owner]
                self._tracked.pop(owner, None)

    @property
    def crowded(self) -> bool:
        """Tell whether so many values came since the last sweep that another pays."""
        return self.used > 2 * self._swept + _CROWD

    def due(self, moment: int) -> bool:
        """Tell whether to sweep: once a ``moment`` while places are short, and at any time when it pays."""
        return self.crowded or (self.short and moment != self._swept_at)

    def nobody(self) -> Flags:
        """Return for each number that it is not held."""
        return np.zeros(self.size, np.bool_)

    def sweep(self, held: Flags, moment: int) -> None:
        """Forget the values that are not ``held`` [size]. Of those that are, but found no place, as many as there is
        room for are looked up anew when they come next."""
        for number in np.flatnonzero(~held & (self._owner[: self.size] != NONE)).tolist():
            owner = int(self._owner[number])
            self._tracked[owner] -= int(self.mark[number] == number)
            self._unlist(number)
            self._release(number)
        waiting = np.flatnonzero(self._listed[: self.size] & (self.mark[: self.size] >= SKETCHED))
        self.short = len(waiting) > 0
        waiting = waiting[np.argsort(self._owner[waiting], kind="stable")]
        owners = self._owner[waiting]
        starts = runs_of(owners)
        for owner, numbers in zip(owners[starts].tolist(), np.split(waiting, starts[1:]), strict=False):
            for number in numbers[: self._room(owner)].tolist():
                self._unlist(number)
        self._swept, self._swept_at = self.used, moment

    def _room(self, owner: _Owner) -> int:
        """Return how many more values of an owner can be followed."""
        return 0 if self.full else max(self._most - self._tracked.get(owner, 0), 0)

    def _unlist(self, number: int) -> None:
        if self._listed[number]:
            del self._tables[int(self._owner[number])][self._keys[number]]
            self._listed[number] = False

    def _release(self, number: int) -> None:
        self._owner[number], self._keys[number], self._listed[number] = NONE, None, False
        self._free.append(number)

    def _enter(self, owner: int, table: dict[Any, int], keys: list[Any]) -> None:
        """Give numbers to new values: as many are followed one by one as there is room for."""
        room = self._room(owner)
        numbers = [self._next(key) for key in keys]
        table.update(zip(keys, numbers, strict=True))
        places = np.array(numbers, np.int64)
        self._owner[places], self._listed[places] = owner, True
        texts = list(map(_text_of, keys))
        self.cell[places] = cells_of(texts)
        self.order[places] = np.frombuffer(b"".join(text[:8].ljust(8, b"\0") for text in texts), ">u8")
        self.mark[places] = places
        self.mark[places[room:]] = self.cell[places[room:]] | SKETCHED
        self._tracked[owner] = self._tracked.get(owner, 0) + min(room, len(keys))
        self.short |= room < len(keys) or 2 * self._tracked[owner] > self._most

    def _next(self, key: Any) -> int:
        if self._free:
            number = self._free.pop()
            self._keys[number] = key
            return number
        self._keys.append(key)
        if self.size > len(self.mark):
            self.mark, self.cell = np.pad(self.mark, (0, self.size)), np.pad(self.cell, (0, self.size))
            self.order, self._listed = np.pad(self.order, (0, self.size)), np.pad(self._listed, (0, self.size))
            self._owner = np.pad(self._owner, (0, self.size), constant_values=NONE)
        return self.size - 1


def cells_of(texts: Sequence[bytes]) -> Ints:
    """Return register and rank of values by their JSON text: the same in every process."""
    digests = b"".join(blake2b(text, digest_size=8).digest() for text in texts)
    hashes = np.frombuffer(digests, "<u8").astype(np.uint64)
    register = (hashes >> np.uint64(64 - REGISTERS)).astype(np.int64)
    rest = (hashes << np.uint64(REGISTERS)) | np.uint64((1 << REGISTERS) - 1)  # ends the run of zeros
    rank = 65 - _bit_lengths(rest)
    return (register << RANKS) | rank


def _bit_lengths(numbers: NDArray[np.uint64]) -> Counts:
    """Return how many bits numbers have; both halves fit a double exactly."""
    high, low = (numbers >> np.uint64(32)).astype(np.float64), (numbers & np.uint64(2**32 - 1)).astype(np.float64)
    return np.where(high > 0, np.frexp(high)[1] + 32, np.frexp(low)[1]).astype(np.int64)


def _shortened(text: str) -> tuple[str, bytes]:
    return text[:LONGEST] + "…", blake2b(text.encode(), digest_size=16).digest()


def _text_of(key: Any) -> bytes:
    if type(key) is tuple:
        text, *digest = key
        return b"".join((_encode(text), *digest)) if digest else str(text).encode()
    return _encode(_whole(key)) if type(key) is float else _encode(key)


def _whole(value: float) -> float | int:
    """Return a number as an integer if it is one of 64 bits, else as it is."""
    return int(value) if value.is_integer() and _INTEGERS[0] <= value < _INTEGERS[1] else value
