"""``python -m tests.hostile.search``, run in the project's folder: looks for the requests that cost most.

Makes requests within all limits by a grammar, and lets hypothesis increase what they cost: the longest computation of a
process between two turns of its event loop, and the computation for each byte that was sent. Prints the costliest ones.
The times are those of the processor, so other work on the machine adds little. Exits with 1 if a step was too long.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
if __name__ == "__main__":  # as the server does, or no wait for Redis would end a step
    from gevent import monkey

    monkey.patch_all()

import gevent
from flask.testing import FlaskClient
from hypothesis import HealthCheck, Phase, given, settings, target
from hypothesis import strategies as st

from hostile.grammar import TOPIC, Call, publishes, reads
from pushsvc.broker.broker import Broker
from pushsvc.broker.embedded import EmbeddedServer
from pushsvc.event import Event
from pushsvc.settings import TopicSettings
from pushsvc.web.app import create_app
from support.owner import Owner

MOST_STEP = 0.05
SHOWN = 5
KEYS, EVENTS, FIELDS = 5_000, 20_000, 20


@dataclass(frozen=True)
class Cost:
    """What a request took: seconds of computation, and the longest of its steps."""

    call: Call
    status: int
    step: float
    whole: float

    @property
    def per_kilobyte(self) -> float:
        return self.whole * 1000 / self.call.size


class Steps:
    """Measures the longest computation between two turns of the event loop."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._last = time.thread_time()
        self._greenlet = gevent.spawn(self._run)

    def _run(self) -> None:
        hub = gevent.get_hub()
        while True:
            self.note()
            hub.wait(hub.loop.timer(0))
            self._last = time.thread_time()

    def note(self) -> None:
        now = time.thread_time()
        self.longest, self._last = max(self.longest, now - self._last), now

    def close(self) -> None:
        self._greenlet.kill()


def measure(client: FlaskClient, call: Call) -> Cost:
    begun, steps = time.thread_time(), Steps()
    gevent.sleep(0)
    headers = {"Content-Type": call.media_type} if call.method == "POST" else {}
    response = client.open(call.path, method=call.method, data=call.body, headers=headers)
    for _ in response.iter_encoded():
        pass
    steps.note()
    steps.close()
    return Cost(call, response.status_code, steps.longest, time.thread_time() - begun)


@contextmanager
def started(folder: Path) -> Iterator[Broker]:
    server = EmbeddedServer(folder, options={"appendfsync": "no"})
    server.start()
    broker = Broker(server.url, "search:")
    try:
        yield broker
    finally:
        broker.close()
        server.stop()


def filled(broker: Broker, count: int = EVENTS) -> FlaskClient:
    """Return a client of an app whose topic has events and statistics."""
    broker.check_layout()
    broker.open_partitions()
    owner = Owner(broker, [TOPIC])
    for start in range(0, count, 1_000):
        events = [
            Event(key=f"k{number % KEYS}", data={f"f{field}": number + 0.5 for field in range(FIELDS)} | {"n0": "a"})
            for number in range(start, start + 1_000)
        ]
        broker.publish(TOPIC, events, TopicSettings())
    owner.step()
    return create_app(broker).test_client()


def search(client: FlaskClient, calls: st.SearchStrategy[Call], examples: int) -> list[Cost]:
    """Return the costs of requests, each one measured with those that it was changed from."""
    found: list[Cost] = []

    @settings(
        max_examples=examples, deadline=None, database=None, phases=[Phase.generate, Phase.target],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(calls)
    def search_one(call: Call) -> None:
        cost = measure(client, call)
        if cost.step > MOST_STEP:
            cost = min(cost, measure(client, call), key=lambda one: one.step)  # the first may have learned or collected
        assert cost.status < 500 or cost.status == 503, (cost.status, call.told)
        found.append(cost)
        target(cost.step * 1000, label="longest step")
        target(cost.per_kilobyte, label="computation for each byte")

    search_one()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile.search", description=__doc__)
    parser.add_argument("--examples", type=int, default=300, help="requests of each kind [default: 300]")
    given_options = parser.parse_args()
    write, longest = sys.stdout.write, 0.0
    with tempfile.TemporaryDirectory(prefix="search-") as folder, started(Path(folder)) as broker:
        client = filled(broker)
        for name, calls in (("reads", reads()), ("publishes", publishes())):
            found = search(client, calls, given_options.examples)
            longest = max(longest, *(one.step for one in found))
            for title, by in (
                ("longest steps", attrgetter("step")),
                ("most for each byte", attrgetter("per_kilobyte")),
            ):
                write(f"\n{name}: {title}\n    step ms  all ms   sent KB  ms each KB\n")
                for one in sorted({one.call.told: one for one in found}.values(), key=by, reverse=True)[:SHOWN]:
                    write(
                        f"{one.step * 1000:11.1f} {one.whole * 1000:7.0f} {one.call.size / 1000:9.1f} "
                        f"{one.per_kilobyte * 1000:11.2f}  {one.status} {one.call.told[:200]}\n"
                    )
    return 1 if longest > MOST_STEP else 0


if __name__ == "__main__":
    sys.exit(main())
