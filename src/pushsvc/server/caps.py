"""How many connections a host holds, in total and per address, over all its worker processes.

Every worker counts in a row of its own of one shared file, and reads the rows of all: there is no lock, and what a
killed worker had counted is forgotten by clearing its row. Two workers that look at the same moment may both admit the
last connection: the caps hold up to the number of workers.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from hashlib import blake2b
from ipaddress import ip_address
from typing import BinaryIO

_PLACES = 65_536
"""Counters of a row: the first is the total, each of the others is for the addresses that share a hash."""

_ROW = _PLACES * 4
_SALT = 16


class Table:
    """The rows of all workers, made by their parent; children inherit ``descriptor``. Row 0 holds the salt."""

    def __init__(self, workers: int) -> None:
        self._file: BinaryIO = tempfile.TemporaryFile(prefix="pushsvc-caps-")  # noqa: SIM115
        self._file.truncate((workers + 1) * _ROW)
        self._memory = mmap.mmap(self._file.fileno(), 0)
        self._memory[:_SALT] = os.urandom(_SALT)

    @property
    def descriptor(self) -> int:
        return self._file.fileno()

    def clear(self, row: int) -> None:
        """Forget what a worker that is gone had counted. Rows are numbered from 1."""
        self._memory[row * _ROW : (row + 1) * _ROW] = bytes(_ROW)

    def close(self) -> None:
        self._memory.close()
        self._file.close()


class Caps:
    """Admits connections. A cap of 0 is none.

    Loopback addresses have no cap of their own: behind them stands a proxy of this machine, with everybody, or somebody
    who could take all descriptors anyway. Of IPv6 the first 64 bits count, since one subscriber has all addresses
    behind them. Two addresses share one of 65,535 counters now and then; which ones nobody can tell: hashes are salted.

    ``table`` is the descriptor of a ``Table``, ``row`` the worker's own; without a table it counts for itself.
    """

    def __init__(
        self,
        total: int = 0,
        per_address: int = 0,
        *,
        table: int | None = None,
        row: int = 1,
        loopback_counts: bool = False,
    ) -> None:
        self._total, self._per_address = total, per_address
        self._loopback_counts = loopback_counts
        memory = mmap.mmap(-1, 2 * _ROW) if table is None else mmap.mmap(table, 0)
        self._salt = memory[:_SALT]
        self._counts = memoryview(memory).cast("I")
        self._rows = range(_PLACES, len(self._counts), _PLACES)
        self._row = row * _PLACES
        self._counts[self._row : self._row + _PLACES] = memoryview(bytes(_ROW)).cast("I")

    def take(self, address: str) -> str | None:
        """Count a connection; or return why it is one too many, in words for its client."""
        place = self._place(address)
        if self._total and self._sum(0) >= self._total:
            return f"this host holds {self._total} connections, the most it takes"
        if self._per_address and place and self._sum(place) >= self._per_address:
            return f"your address holds {self._per_address} connections, the most one may have"
        self._counts[self._row] += 1
        self._counts[self._row + place] += 1 if place else 0
        return None

    def give_back(self, address: str) -> None:
        place = self._place(address)
        self._counts[self._row] -= 1
        self._counts[self._row + place] -= 1 if place else 0

    def _sum(self, place: int) -> int:
        return sum([self._counts[row + place] for row in self._rows])

    def _place(self, address: str) -> int:
        """Return the counter of an address, 0 where it has none."""
        try:
            ip = ip_address(address.partition("%")[0])
        except ValueError:
            return 0
        if ip.version == 6 and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        if ip.is_loopback and not self._loopback_counts:
            return 0
        packed = ip.packed[:8] if ip.version == 6 else ip.packed
        return int.from_bytes(blake2b(packed, digest_size=8, key=self._salt).digest(), "big") % (_PLACES - 1) + 1
