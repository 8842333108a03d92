"""Simulate rooms in several processes, because that is computation, and publish what each of them computed.

python publish_processes.py http://127.0.0.1:8000 sensors HOW_MANY_ROOMS
"""

import multiprocessing
import sys
from functools import partial

from publish_http import Publisher

HOURS = 24


def simulate(room: int) -> list[dict[str, object]]:
    """Return the readings of a day, by Newton's law of cooling in steps of a second."""
    celsius, readings = 15.0 + room, list[dict[str, object]]()
    for second in range(HOURS * 3600):
        outside, heating = 5.0, 3e-4 * (celsius < 20)
        celsius += (outside - celsius) * 1e-5 + heating
        if second % 3600 == 0:
            readings.append({"key": f"room-{room}", "celsius": round(celsius, 3)})
    return readings


def simulate_and_publish(url: str, topic: str, room: int) -> int:
    """Publish the day of a room; return how many events are stored. Connections are not inherited: each opens one."""
    return int(Publisher(url).publish(topic, simulate(room))["accepted"])  # type: ignore[call-overload]


if __name__ == "__main__":
    url, topic, rooms = sys.argv[1], sys.argv[2], int(sys.argv[3])
    # A forked copy of a process with threads may wait forever for a lock that no thread of it will release.
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        accepted = pool.map(partial(simulate_and_publish, url, topic), range(rooms))
    print(f"{sum(accepted)} events of {rooms} rooms")
