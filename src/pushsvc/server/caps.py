"""Limits the connections of a host, in total and per address, across all worker processes.

Each worker counts in a row of its own in a shared file and sums the rows of all workers. So no lock is needed, and
clearing a row forgets the counts of a killed worker. Workers that check at the same moment may both admit the last
connection: the limits may be exceeded by the number of workers.
"""

import mmap
import os
import tempfile
from functools import lru_cache
from hashlib import blake2b
from typing import BinaryIO, NamedTuple

from pushsvc.web.memory.networks import network_of

_COUNTERS = 65_536
"""Counters of a row. The first is the total; each other one counts the addresses that share a hash."""

_ROW_BYTES = _COUNTERS * 4
_SALT_BYTES = 16


class ConnectionCounts:
    """The shared rows. The parent creates them; workers inherit ``descriptor``. Row 0 holds the salt."""

    def __init__(self, workers: int) -> None:
        self._file: BinaryIO = tempfile.TemporaryFile(prefix="pushsvc-caps-")  # noqa: SIM115
        self._file.truncate((workers + 1) * _ROW_BYTES)
        self._memory = mmap.mmap(self._file.fileno(), 0)
        self._memory[:_SALT_BYTES] = os.urandom(_SALT_BYTES)

    @property
    def descriptor(self) -> int:
        return self._file.fileno()

    def clear(self, row: int) -> None:
        """Forget the counts of a worker that has ended. Rows are numbered from 1."""
        self._memory[row * _ROW_BYTES : (row + 1) * _ROW_BYTES] = bytes(_ROW_BYTES)

    def close(self) -> None:
        self._memory.close()
        self._file.close()


class WorkerCount(NamedTuple):
    """How many connections a worker has, and where its row begins."""

    connections: int
    row: int


class Caps:
    """Admits connections. A limit of 0 is none.

    ``network_of`` says which addresses count together, and which have no limit of their own. Two networks may share one
    of 65,535 counters; the salt makes it unpredictable which.

    ``table`` is the descriptor of a ``ConnectionCounts`` and ``row`` the worker's own row; without a table the worker
    counts alone.
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
        memory = mmap.mmap(-1, 2 * _ROW_BYTES) if table is None else mmap.mmap(table, 0)
        self._salt = memory[:_SALT_BYTES]
        self._counts = memoryview(memory).cast("I")
        self._rows = range(_COUNTERS, len(self._counts), _COUNTERS)
        self._row = row * _COUNTERS
        self._counter_of = lru_cache(1_024)(self._find_counter)  # many connections may come from one proxy
        self._counts[self._row : self._row + _COUNTERS] = memoryview(bytes(_ROW_BYTES)).cast("I")

    def acquire(self, address: str) -> str | None:
        """Count a connection; return None, or without counting it the reason to refuse it, for its client."""
        counter = self._counter_of(address)
        if self._total and self._sum(0) >= self._total:
            return f"too many connections: this host accepts {self._total}"
        if self._per_address and counter and self._sum(counter) >= self._per_address:
            return f"too many connections from your address: this host accepts {self._per_address}"
        self._counts[self._row] += 1
        self._counts[self._row + counter] += 1 if counter else 0
        return None

    def release(self, address: str) -> None:
        """Uncount a connection that ``acquire`` has counted."""
        counter = self._counter_of(address)
        self._counts[self._row] -= 1
        self._counts[self._row + counter] -= 1 if counter else 0

    def another_below(self, count: int) -> bool:
        """Return whether another worker has fewer connections than ``count``."""
        return any(self._counts[row] < count for row in self._rows if row != self._row)

    def emptiest_other(self) -> WorkerCount | None:
        """Return the other worker with the fewest connections; None without others."""
        others = [WorkerCount(self._counts[row], row) for row in self._rows if row != self._row]
        return min(others, default=None)

    def count(self, row: int) -> int:
        """Return how many connections the worker of a row has now."""
        return self._counts[row]

    def _sum(self, counter: int) -> int:
        return sum([self._counts[row + counter] for row in self._rows])

    def _find_counter(self, address: str) -> int:
        """Return the counter of an address, 0 if it has none."""
        network = network_of(address, loopback_counts=self._loopback_counts)
        if network is None:
            return 0
        return int.from_bytes(blake2b(network, digest_size=8, key=self._salt).digest(), "big") % (_COUNTERS - 1) + 1
