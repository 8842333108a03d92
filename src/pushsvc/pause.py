"""Cooperative pauses: long work calls one between two steps, so that the caller can serve others."""

from collections.abc import Callable

Pause = Callable[[], None]


def no_pause() -> None:
    """Continue at once."""
