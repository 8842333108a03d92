"""Long turns of the event loops of a server, as ``loop/sitecustomize.py`` notes them in its processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROBE = Path(__file__).parent / "loop"


@dataclass(frozen=True)
class Turn:
    """Seconds: ``used`` of a processor, ``took`` with the time of waiting for one, ``collected`` of the garbage
    collector. ``stacks`` were seen during it."""

    at: float
    took: float
    used: float
    collected: float
    stacks: list[list[str]] = field(default_factory=list)


NONE = Turn(0.0, 0.0, 0.0, 0.0)


class Turns:
    """The turns that processes of a role noted in a folder."""

    def __init__(self, folder: Path, role: str = "_web") -> None:
        self._folder, self._role = folder, role
        self._read: dict[Path, int] = {}

    def new(self) -> list[Turn]:
        """Return the turns that were noted since the last call."""
        return [Turn(**noted) for noted in self._new()]

    def _new(self) -> Iterator[Any]:
        for path in sorted(self._folder.glob(f"{self._role}-*")):
            data = path.read_bytes()
            end = data.rfind(b"\n") + 1
            yield from map(json.loads, data[self._read.get(path, 0) : end].splitlines())
            self._read[path] = end


def longest(turns: list[Turn]) -> Turn:
    """Return the turn that used a processor longest."""
    return max(turns, key=lambda turn: turn.used, default=NONE)
