"""Read a stream in one process and compute in others, so that a long computation never holds up the reading.

python watch_processes.py http://127.0.0.1:8000 sensors HOW_MANY
"""

import itertools
import multiprocessing
import sys
import threading
from collections.abc import Iterator

from watch_socket import watch

AHEAD = 100  # events that wait for a process; the server keeps the others in its log
room = threading.Semaphore(AHEAD)


def events(url: str, topic: str, count: int) -> Iterator[dict[str, object]]:
    """Yield events while there is room: the pool's own queue has no end."""
    for event in itertools.islice(watch(url, topic, "earliest"), count):
        room.acquire()
        yield event


def compute(event: dict[str, object]) -> tuple[object, object, int]:
    """Return the event's place in its topic, its key, and how long its temperature takes to fall to 10 degrees."""
    celsius, seconds = float(str(event["celsius"])), 0
    while celsius > 10:
        celsius += (5 - celsius) * 1e-4
        seconds += 1
    return event["$offset"], event["key"], seconds


if __name__ == "__main__":
    url, topic, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        # imap gives the results in the order of the events, whichever process is done first.
        for offset, key, seconds in pool.imap(compute, events(url, topic, count)):
            room.release()
            print(offset, key, seconds, flush=True)
