"""How many turns of the event loop others had while something ran."""

from collections.abc import Iterator
from contextlib import contextmanager

import gevent


@contextmanager
def counted_turns() -> Iterator[list[int]]:
    """Give a list of one number, which grows with each turn of the event loop."""
    taken, hub = [0], gevent.get_hub()

    def turn() -> None:
        while True:
            taken[0] += 1
            hub.wait(hub.loop.timer(0))

    other = gevent.spawn(turn)
    try:
        yield taken
    finally:
        other.kill()
