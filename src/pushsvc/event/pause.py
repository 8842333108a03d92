"""Cooperative pauses: the readers of bodies call one between two events, so that the caller can serve others."""

from collections.abc import Callable

Pause = Callable[[], None]


def no_pause() -> None:
    """Continue at once."""
