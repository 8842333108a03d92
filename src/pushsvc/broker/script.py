"""The scripts that run in Redis, and calls of them."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha1
from importlib.resources import files
from typing import Any

from msgspec import Struct

Argument = bytes | str | int


def _source(name: str) -> bytes:
    return files(__package__).joinpath("scripts", f"{name}.lua").read_bytes()


class Script:
    """A Lua script by name; ``writes`` tells whether a lost answer leaves its outcome unknown.

    One that writes begins with the functions of ``common.lua``, and of ``trim.lua`` if it ``trims``.
    """

    def __init__(self, name: str, *, writes: bool, trims: bool = False) -> None:
        self.name = name
        self.writes = writes
        parts = ("common", "trim", name) if trims else ("common", name) if writes else (name,)
        self.source = b"".join(map(_source, parts))
        self.sha = sha1(self.source, usedforsecurity=False).hexdigest()


OPEN = Script("open", writes=True)
PUBLISH = Script("publish", writes=True, trims=True)
SWEEP = Script("sweep", writes=True, trims=True)
STATISTICS = Script("statistics", writes=True)
RECALL = Script("recall", writes=False)
READ = Script("read", writes=False)
SEEK = Script("seek", writes=False)
LEASE = Script("lease", writes=True)
RELEASE = Script("release", writes=True)
DELETE = Script("delete", writes=True)
CHECKPOINT_PIECE = Script("checkpoint_piece", writes=True)
CHECKPOINT_COMMIT = Script("checkpoint_commit", writes=True)
CHECKPOINT_DISCARD = Script("checkpoint_discard", writes=True)
SCRIPTS = (
    OPEN, PUBLISH, SWEEP, RECALL, STATISTICS, READ, SEEK, LEASE, RELEASE, DELETE, CHECKPOINT_PIECE, CHECKPOINT_COMMIT,
    CHECKPOINT_DISCARD,
)  # fmt: skip

RUN = object()
"""Stands, among a call's arguments, for the run id of the primary that the call is sent to."""


class Call(Struct, frozen=True):
    """One script call. ``args`` may hold RUN."""

    script: Script
    keys: Sequence[str]
    args: Sequence[Any]

    def command(self, run: str) -> list[Argument]:
        """Return the words of the command."""
        args = [run if word is RUN else word for word in self.args]
        return ["EVALSHA", self.script.sha, len(self.keys), *self.keys, *args]


def load_scripts(connection: Any) -> None:
    """Let Redis know all scripts."""
    for script in SCRIPTS:
        connection.send_command("SCRIPT", "LOAD", script.source)
        connection.read_response()
