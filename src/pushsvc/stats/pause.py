"""Cooperative pauses: long work calls a pause every few milliseconds, so that the caller can serve others."""

from collections.abc import Callable

Pause = Callable[[], None]


def no_pause() -> None:
    """Continue at once."""
