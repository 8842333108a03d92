"""Watch several topics at once: a thread reads each stream, and one thread handles all events.

python watch_threads.py http://127.0.0.1:8000 HOW_MANY TOPIC...
"""

import queue
import sys
import threading

from watch_socket import watch

WAITING = 1_000  # a full queue holds up the readers, and the server keeps what they have not read in its log


def read(url: str, topic: str, events: queue.Queue[tuple[str, dict[str, object]]]) -> None:
    """Put the events of a topic into a queue, forever."""
    for event in watch(url, topic, "earliest"):
        events.put((topic, event))


if __name__ == "__main__":
    url, count, topics = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    events: queue.Queue[tuple[str, dict[str, object]]] = queue.Queue(WAITING)
    for topic in topics:
        threading.Thread(target=read, args=(url, topic, events), daemon=True).start()
    for _ in range(count):
        topic, event = events.get()
        print(topic, event["$offset"], event["key"], event["celsius"], flush=True)
