"""Calls of consumers, of which one that raises must not affect the others."""

import logging
from collections.abc import Callable
from typing import ParamSpec, Protocol

log = logging.getLogger(__name__)

P = ParamSpec("P")


class MayFail(Protocol):
    """Gets something that others get, too."""

    def fail(self) -> None:
        """End after an error of our own."""


def guarded(consumer: MayFail, call: Callable[P, None], *args: P.args, **named: P.kwargs) -> None:
    """Call a method of a consumer. If it raises, that is logged, and the consumer ends."""
    try:
        call(*args, **named)
    except Exception:
        log.exception("%s", consumer)
        consumer.fail()
