"""A bound of what all engines of a process hold together, in cells. A cell is one row in one window.

What windows keep beside rows, events and values, counts as the cells that would take as many bytes.
"""

from __future__ import annotations

UNBOUNDED = 1 << 62
_SHARE = 7  # times what is free: the most that one topic may hold
CELL_BYTES = 540  # of memory that a cell takes, about
_RESERVED = 16  # one part of so many is for totals: every topic has some, whatever the keys of others take


class CellLedger:
    """At most ``limit`` cells; ``held`` are taken. ``pledged`` are set aside for rows of ``__other__``, which must have
    room when nothing else has. ``refused`` counts the keys and fields without room, each time. ``kept`` are the bytes
    of events and values, which ``held`` includes; ``limited`` counts how often an engine could not keep more.

    What a ledger holds counts in ``whole``, too, the ledger that it is a part of.
    """

    def __init__(self, limit: int = UNBOUNDED, whole: CellLedger | None = None) -> None:
        self._whole = whole
        self.limit = limit
        self.for_keys = limit - limit // _RESERVED
        self.held = 0
        self.pledged = 0
        self.refused = 0
        self.kept = 0
        self.limited = 0

    @property
    def free(self) -> int:
        free = max(0, self.limit - self.held - self.pledged)
        return free if self._whole is None else min(free, self._whole.free)

    @property
    def free_for_keys(self) -> int:
        free = self.for_keys - self.held - self.pledged
        return free if self._whole is None else min(free, self._whole.free_for_keys)

    def hold(self, cells: int) -> None:
        self.held += cells
        if self._whole is not None:
            self._whole.hold(cells)

    def pledge(self, cells: int) -> None:
        self.pledged += cells
        if self._whole is not None:
            self._whole.pledge(cells)

    def keep(self, size: int) -> None:
        """Count bytes of events and values. They are held as cells, too."""
        self.kept += size
        if self._whole is not None:
            self._whole.keep(size)

    def refuse(self, count: int) -> None:
        self.refused += count
        if self._whole is not None:
            self._whole.refuse(count)

    def limit_kept(self) -> None:
        """Count that an engine could not keep more events and values."""
        self.limited += 1
        if self._whole is not None:
            self._whole.limit_kept()


class CellAccount:
    """The cells of one engine: ``weight`` for each of its rows, one in each window.

    A topic may hold seven times what is free. So a single topic gets most of the bound, and some is left for the topics
    that come later, however many there are.
    """

    def __init__(self, ledger: CellLedger, weight: int) -> None:
        self._ledger = ledger
        self._weight = max(1, weight)
        self._held = 0
        self._pledged = 0
        self._kept = 0  # bytes
        self.is_crowded = False  # the engine must not keep more events and values than it has

    def pledge(self, rows: int) -> None:
        """Set cells aside for rows of ``__other__``; with a negative number, no longer."""
        self._pledged += rows * self._weight
        self._ledger.pledge(rows * self._weight)

    def draw(self, rows: int) -> None:
        """Take cells for rows, also beyond the limit: the caller has asked for ``room``, or cannot do without them."""
        self._held += rows * self._weight
        self._ledger.hold(rows * self._weight)

    def give_back(self, rows: int) -> None:
        self.draw(-rows)

    def keep(self, size: int) -> bool:
        """Count events and values of ``size`` bytes in place of those before; return whether there may be more.

        As the rows of a topic, they may take seven times what is free.
        """
        ledger, more = self._ledger, size // CELL_BYTES - self._kept // CELL_BYTES
        ledger.hold(more)
        self._held += more
        ledger.keep(size - self._kept)
        self._kept = size
        crowded = size // CELL_BYTES > _SHARE * max(0, ledger.free_for_keys)
        if crowded and not self.is_crowded:
            ledger.limit_kept()
        self.is_crowded = crowded
        return not crowded

    def close(self) -> None:
        """Give everything back; what is drawn later is counted nowhere."""
        self._ledger.keep(-self._kept)
        self._kept, self.is_crowded = 0, False
        self._ledger.hold(-self._held)
        self._ledger.pledge(-self._pledged)
        self._ledger, self._held, self._pledged = CellLedger(), 0, 0

    def room(self, held: int) -> int:
        """Return how many rows of keys a topic with ``held`` rows may open."""
        free = self._ledger.free_for_keys // self._weight
        return max(0, (_SHARE * free - held) // (_SHARE + 1))

    def has_room_for_field(self) -> bool:
        """Return whether a topic may have another field, with a total and a row of ``__other__``."""
        return 2 * self._weight <= self._ledger.free

    def admits(self, rows: int, kept: int = 0) -> bool:
        """Return whether the rows of a saved engine fit, and what it keeps (bytes)."""
        return rows * self._weight + kept // CELL_BYTES <= self._ledger.free

    def refuse(self, count: int = 1) -> None:
        """Count keys or fields that got no room."""
        self._ledger.refuse(count)
