"""The memory that this process may use: that of the machine, or less if its control groups have a limit."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath


def usable_memory(root: Path = Path("/")) -> int:
    """Return the bytes of memory of the machine, or the lowest limit of the control groups of this process."""
    return min([os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *_group_limits(root)])


def _group_limits(root: Path) -> Iterator[int]:
    """Yield the limits of the groups of this process, of version 2 and 1, up to the top of what is mounted here."""
    mounted = root / "sys/fs/cgroup"
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if not controllers:
                yield from _limits(mounted, group, "memory.max")
            elif "memory" in controllers.split(","):
                yield from _limits(mounted / "memory", group, "memory.limit_in_bytes")


def _limits(mounted: Path, group: str, name: str) -> Iterator[int]:
    """Yield the limits of a group and of those above it. In a container the group may be mounted as the top."""
    path = PurePosixPath(group.strip("/"))
    for place in (path, *path.parents):
        with suppress(OSError, ValueError):  # "max" is no limit
            yield int((mounted / place / name).read_text())
