"""What a process of ``serve --app`` knows of the server in front of it, and what its application tells that server."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import msgspec

from pushsvc.config import Settings
from pushsvc.supervisor.child_settings import share

SERVED_VARIABLE = "PUSHSVC_SERVED"  # the descriptor of what the process knows


class Served(msgspec.Struct, frozen=True):
    """The hub listens at ``host`` and ``port`` for requests with tokens that the key in ``settings`` signs."""

    host: str
    port: int
    encoded_settings: str

    @property
    def settings(self) -> Settings:
        return Settings.decode(self.encoded_settings)

    def share(self) -> int:
        """Return a descriptor for children; the caller closes it."""
        return share(msgspec.json.encode(self))


class Mount(msgspec.Struct, frozen=True):
    """A ``Push`` in the application: its prefix, and the settings that the application's configuration ``names``."""

    prefix: str
    names: tuple[str, ...]
    encoded_settings: str

    def apply(self, settings: Settings) -> Settings:
        """Return settings with those of the application."""
        own = Settings.decode(self.encoded_settings)
        return replace(settings, **{name: getattr(own, name) for name in self.names})


def differing(mounts: Iterable[Mount]) -> list[str]:
    """Return the names of settings that applications set differently: one server has those of the last."""
    values: dict[str, list[Any]] = {}
    for mount in mounts:
        own = Settings.decode(mount.encoded_settings)
        for name in mount.names:
            values.setdefault(name, []).append(getattr(own, name))
    return sorted(name for name, given in values.items() if any(value != given[0] for value in given))


class Report(msgspec.Struct, frozen=True):
    """What the application tells when it is loaded: where it has streams, or why it cannot run."""

    mounts: tuple[Mount, ...] = ()
    error: str = ""


_served: Served | None = None
_answers_questions = False
mounts: list[Mount] = []
"""The extension adds each of its applications of this process."""


def read_served(*, answers_questions: bool) -> Served:
    """Read what the supervisor shares, and close its descriptor. The extension finds it by ``served``."""
    global _served, _answers_questions
    descriptor = int(os.environ.pop(SERVED_VARIABLE))
    try:
        data = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    finally:
        os.close(descriptor)
    _served, _answers_questions = msgspec.json.decode(data, type=Served), answers_questions
    return _served


def served() -> Served | None:
    """Return the server in front of this process; None if there is none."""
    return _served


def answers_questions() -> bool:
    """Return whether this process only tells the server what a request may do, and serves no pages."""
    return _answers_questions
