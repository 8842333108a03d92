"""Lists of parts that are merged now and then, batches of parallel arrays, and the bytes of all these."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pushsvc.stats.arrays import Flags, Ints

_Part = TypeVar("_Part")
_Scalar = TypeVar("_Scalar", bound=np.generic)
Batch = tuple[Ints, Ints, NDArray[_Scalar]]  # three properties of each of [n] values
_MANY = 32


def bytes_of(*parts: Any) -> int:
    """Return the bytes of distinct arrays and of objects with ``bytes``, also those in collections; 0 for None."""
    sizes: dict[int, int] = {}
    waiting = list(parts)
    while waiting:
        part = waiting.pop()
        if isinstance(part, (list, tuple)):
            waiting += part
        elif isinstance(part, dict):
            waiting += part.values()
        elif part is not None:
            sizes[id(part)] = part.nbytes if isinstance(part, np.ndarray) else part.bytes
    return sum(sizes.values())


def joined(batches: Sequence[Batch[_Scalar]]) -> Batch[_Scalar]:
    """Concatenate batches."""
    one, two, three = zip(*batches, strict=True)
    return np.concatenate(one), np.concatenate(two), np.concatenate(three)


def chosen(batch: Batch[_Scalar], mask: Flags | Ints) -> Batch[_Scalar]:
    """Return some values of a batch."""
    one, two, three = batch
    return one[mask], two[mask], three[mask]


def append_merged(parts: list[_Part], part: _Part, merge: Callable[[list[_Part]], _Part]) -> None:
    """Append a part to others; many are merged into one."""
    parts.append(part)
    if len(parts) >= _MANY:
        parts[:] = [merge(parts)]
