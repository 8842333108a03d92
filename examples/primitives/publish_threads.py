"""Publish from several threads at once: while one waits for its answer, the others send.

python publish_threads.py http://127.0.0.1:8000 sensors HOW_MANY
"""

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from publish_http import Publisher

ROOMS = ("kitchen", "hall", "cellar", "attic")

own = threading.local()  # a connection carries one request at a time, so each thread has its own


def publish(url: str, topic: str, number: int) -> None:
    """Publish one reading of one room."""
    if not hasattr(own, "publisher"):
        own.publisher = Publisher(url)
    event: dict[str, object] = {"key": ROOMS[number % len(ROOMS)], "celsius": 20 + number % 7}
    own.publisher.publish(topic, [event])


if __name__ == "__main__":
    url, topic, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    begin = time.perf_counter()
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(publish, url, topic, number) for number in range(count)]:
            done.result()  # raises what the thread raised
    print(f"{count} events in {time.perf_counter() - begin:.2f} s")
