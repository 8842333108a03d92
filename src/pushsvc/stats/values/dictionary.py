"""Dictionary encoding of the values of fields: a value gets a number once, and everything else counts integers.

Two values are equal if their JSON is: texts by their characters, numbers by their magnitude (``1`` equals ``1.0``;
integers of 64 bits stay exact). Booleans equal no number.
"""

import sys
from collections.abc import Sequence
from hashlib import blake2b
from operator import itemgetter
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pushsvc.stats.arrays import Counts, Flags, Ints, runs_of
from pushsvc.stats.parts import bytes_of

LONGEST = 200  # characters that are kept of a text; a longer one is shown as these and "…", and a digest identifies it
REGISTERS = 12  # bits of a hash that select one of the 4,096 registers of a HyperLogLog
RANKS = 6  # bits of a rank: 1 plus the number of leading zeros of the rest of a hash
SKETCHED = 1 << 31  # bit of a mark that is a HyperLogLog cell (register and rank) instead of a number
NONE = -1  # number that stands for the absence of a value
UNTRACKED = 0  # number that stands for all values that are not tracked

_Owner = int
_Json = bytes
_ENTRY_BYTES = 150  # of memory beside a value itself and the arrays: its number, its places in a table and a list
_SWEEP_PAYS, _SWEEP_PAYS_FULL = 10_000, 1_000
_FIRST_CAPACITY = 64
_FALSE, _TRUE = ("false",), ("true",)
_INTEGERS = -(2.0**63), 2.0**64
_encode = msgspec.json.Encoder().encode


class ValueDictionary:
    """The values of fields. An ``owner`` is a field of a topic, given by the row of its total.

    At most ``most`` values of an owner are tracked, that is, counted one by one. ``mark[number]`` stands for a value in
    counts: the number of a tracked value, else its cell with SKETCHED. ``cell[number]`` is the HyperLogLog register and
    rank of any value, ``order[number]`` the first eight bytes of its JSON text. A sweep frees the numbers of values
    that are not in use; ``short`` means that some owner may need one. While ``full`` no new value is tracked.
    """

    STATE = (
        "full", "short", "mark", "cell", "order", "_most", "_tables", "_tracked", "_keys", "_owner", "_listed", "_size",
        "_sizes", "_free", "_swept", "_swept_in",
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
        self._size: NDArray[np.int32] = np.zeros(_FIRST_CAPACITY, np.int32)
        self._sizes = 0  # the sum
        self._free: list[int] = []
        self._swept = 0
        self._swept_in = NONE

    @property
    def bytes(self) -> int:
        arrays = bytes_of(self.mark, self.cell, self.order, self._owner, self._listed, self._size)
        return _ENTRY_BYTES * self.used + self._sizes + arrays

    @property
    def size(self) -> int:
        """Upper bound of the numbers."""
        return len(self._keys)

    @property
    def owners(self) -> int:
        """Number of owners that have values."""
        return len(self._tables)

    @property
    def used(self) -> int:
        return self.size - len(self._free)

    def numbers(self, owner: int, values: Sequence[Any], mixed: bool) -> Ints:
        """Return the numbers of values, NONE for None. ``mixed``: there may be booleans among them."""
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
        """Return a value as readers get it: long text shortened, a whole number as an integer; None for NONE."""
        key = None if number == NONE else self._keys[number]
        if type(key) is tuple:
            return key[0] if len(key) == 2 else key == _TRUE
        return _whole(key) if type(key) is float else key

    def text(self, number: int) -> _Json:
        """Return the JSON text of a value, which orders values of equal count."""
        return _text_of(self._keys[number])

    def forget(self, owners: Ints) -> None:
        """Forget the values of owners; nothing may refer to them any more."""
        chosen = [owner for owner in owners.tolist() if owner in self._tables]
        if chosen:
            for number in np.flatnonzero(np.isin(self._owner[: self.size], chosen)).tolist():
                self._release(number)
            for owner in chosen:
                del self._tables[owner]
                self._tracked.pop(owner, None)

    @property
    def crowded(self) -> bool:
        """Return whether so many values are new since the last sweep that another one pays."""
        return self.used > 2 * self._swept + (_SWEEP_PAYS_FULL if self.full else _SWEEP_PAYS)

    def due(self, period: int) -> bool:
        """Return whether to sweep: once in a ``period`` while numbers are short, and whenever a sweep pays."""
        return self.crowded or (self.short and period != self._swept_in)

    def sweep(self, used: Flags, period: int) -> None:
        """Forget the values that are not ``used`` [size]. As far as that makes room, values that are used but not
        tracked will be entered anew, and tracked, when they occur next."""
        for number in np.flatnonzero(~used & (self._owner[: self.size] != NONE)).tolist():
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
        self._swept, self._swept_in = self.used, period

    def _room(self, owner: _Owner) -> int:
        """Return how many more values of an owner can be tracked."""
        return 0 if self.full else max(self._most - self._tracked.get(owner, 0), 0)

    def _unlist(self, number: int) -> None:
        if self._listed[number]:
            del self._tables[int(self._owner[number])][self._keys[number]]
            self._listed[number] = False

    def _release(self, number: int) -> None:
        self._owner[number], self._keys[number], self._listed[number] = NONE, None, False
        self._sizes -= int(self._size[number])
        self._free.append(number)

    def _enter(self, owner: int, table: dict[Any, int], keys: list[Any]) -> None:
        """Give numbers to new values, and track as many as there is room for."""
        room = self._room(owner)
        numbers = [self._next(key) for key in keys]
        table.update(zip(keys, numbers, strict=True))
        places = np.array(numbers, np.int64)
        self._owner[places], self._listed[places] = owner, True
        texts = list(map(_text_of, keys))
        sizes = list(map(_bytes_of, keys))  # texts have their UTF-8 now, too
        self._size[places] = sizes
        self._sizes += sum(sizes)
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
            self._size = np.pad(self._size, (0, self.size))
            self._owner = np.pad(self._owner, (0, self.size), constant_values=NONE)
        return self.size - 1


def cells_of(texts: Sequence[bytes]) -> Ints:
    """Return the registers and ranks of values by their JSON text, the same in every process."""
    digests = b"".join(blake2b(text, digest_size=8).digest() for text in texts)
    hashes = np.frombuffer(digests, "<u8").astype(np.uint64)
    register = (hashes >> np.uint64(64 - REGISTERS)).astype(np.int64)
    rest = (hashes << np.uint64(REGISTERS)) | np.uint64((1 << REGISTERS) - 1)  # ends the run of zeros
    rank = 65 - _bit_lengths(rest)
    return (register << RANKS) | rank


def _bit_lengths(numbers: NDArray[np.uint64]) -> Counts:
    """Return the bit lengths of numbers; each half of a number fits a double exactly."""
    high, low = (numbers >> np.uint64(32)).astype(np.float64), (numbers & np.uint64(2**32 - 1)).astype(np.float64)
    return np.where(high > 0, np.frexp(high)[1] + 32, np.frexp(low)[1]).astype(np.int64)


def _bytes_of(key: Any) -> int:
    """Return the bytes of memory that a value takes: 24 of a number, 1,800 of 200 characters of four bytes each."""
    return sys.getsizeof(key) + (sum(map(sys.getsizeof, key)) if type(key) is tuple else 0)


def _shortened(text: str) -> tuple[str, bytes]:
    return text[:LONGEST] + "…", blake2b(text.encode(), digest_size=16).digest()


def _text_of(key: Any) -> bytes:
    if type(key) is tuple:
        text, *digest = key
        return b"".join((_encode(text), *digest)) if digest else str(text).encode()
    return _encode(_whole(key)) if type(key) is float else _encode(key)


def _whole(value: float) -> float | int:
    """Return a number as an integer if it is one that fits 64 bits, else unchanged."""
    return int(value) if value.is_integer() and _INTEGERS[0] <= value < _INTEGERS[1] else value
