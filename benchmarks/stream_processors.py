"""One handler of quixstreams or faust-streaming over a topic of Kafka, timed as ``components.py`` times ours.

``components.py --kafka`` starts it with a Python that has these libraries; this project does not depend on them. It
prints a JSON array: events a second from the first event on, and the CPU seconds of the process, its start included.

    python stream_processors.py fill|quixstreams|quixstreams-exactly-once|faust HANDLER BROKER COUNT FOLDER
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from typing import Any
from uuid import uuid4

KEYS = 1_000
SOURCE = "bench-in"
NOTE = "a comment of some length"


class Measured:
    """Counts events, and says how long all took."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._begun = 0.0
        self.seen = 0

    def note(self) -> bool:
        """Count an event; return whether it is the last one."""
        if not self.seen:
            self._begun = time.monotonic()
        self.seen += 1
        return self.seen == self._count

    def tell(self) -> None:
        speed = (self._count - 1) / (time.monotonic() - self._begun)
        spent = resource.getrusage(resource.RUSAGE_SELF)
        os.write(1, json.dumps([speed, spent.ru_utime + spent.ru_stime]).encode() + b"\n")


def fill(broker: str, count: int) -> None:
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": broker, "linger.ms": 50, "queue.buffering.max.messages": 1_000_000})
    for number in range(count):
        event = {"n": number, "note": NOTE}
        producer.produce(SOURCE, key=f"k{number * 7919 % KEYS}", value=json.dumps(event))
    producer.flush()


def quixstreams(handler: str, broker: str, count: int, folder: str, guarantee: Any) -> None:
    from quixstreams import Application

    measured = Measured(count)
    name = f"bench-{uuid4().hex}"
    app = Application(
        broker_address=broker, consumer_group=name, auto_offset_reset="earliest", processing_guarantee=guarantee,
        state_dir=f"{folder}/{name}", loglevel="ERROR",
    )  # fmt: skip
    source, out = app.topic(SOURCE, value_serializer="json"), app.topic(f"{name}-out", value_serializer="json")
    frame = app.dataframe(source)

    def see(event: dict[str, Any]) -> None:
        measured.note()

    def add(event: dict[str, Any], state: Any) -> dict[str, Any]:
        n = state.get("n", 0) + 1
        state.set("n", n)
        return {"n": n}

    frame = frame.update(see)
    if "state" in handler:
        frame = frame.apply(add, stateful=True)
    if "emit" in handler:
        frame = frame.apply(lambda event: {"n": event["n"]}).to_topic(out)
    app.run(count=count)  # returns after the last commit
    measured.tell()


def faust(handler: str, broker: str, count: int, folder: str) -> None:
    import faust as library

    measured = Measured(count)
    name = f"bench-{uuid4().hex}"
    app = library.App(
        name, broker=f"kafka://{broker}", store="memory://", topic_partitions=1, datadir=f"{folder}/{name}",
        web_enabled=False, worker_redirect_stdouts=False, consumer_auto_offset_reset="earliest",
    )  # fmt: skip
    source = app.topic(SOURCE, key_type=bytes, value_serializer="json")
    out = app.topic(f"{name}-out", key_type=bytes, value_serializer="json")
    counts = app.Table("counts", default=int, key_type=str, partitions=1)

    async def handle(stream: Any) -> None:
        async for key, event in stream.items():
            last = measured.note()
            n = event["n"]
            if "state" in handler:
                name = key.decode()
                n = counts[name] = counts[name] + 1
            if "emit" in handler:
                await out.send(key=key, value={"n": n})
            if last:
                await app.producer.flush()
                await app.commit(app.topics)
                measured.tell()
                os._exit(0)

    app.agent(source)(handle)
    sys.argv = [name, "worker", "-l", "error"]
    app.main()


def main() -> None:
    which, handler, broker, count, folder = sys.argv[1:]
    if which == "fill":
        fill(broker, int(count))
    elif which == "faust":
        faust(handler, broker, int(count), folder)
    else:
        guarantee = "exactly-once" if which.endswith("exactly-once") else "at-least-once"
        quixstreams(handler, broker, int(count), folder, guarantee)


if __name__ == "__main__":
    main()
