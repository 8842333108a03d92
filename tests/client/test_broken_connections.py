"""Both clients behind a proxy that cuts connections: nothing is missing, nothing is there twice, states are right."""

from __future__ import annotations

import asyncio
import random
import threading

import pytest

from support.both_clients import CLIENTS, on_a_loop, until_async
from support.proxy import Last, Proxy


@pytest.fixture(params=list(CLIENTS))
def connect(request):
    return CLIENTS[request.param]


class Cutter:
    """Cuts a connection in one of ``every`` pieces, ``cuts`` times in all, at any byte. Streams are retried at once."""

    def __init__(self, cuts: int, every: int) -> None:
        self._chance = random.Random(7)
        self._lock = threading.Lock()
        self.cuts = cuts
        self._every = every

    def __call__(self, data: bytes) -> bytes | None:
        data = data.replace(b"retry: 2000", b"retry: 0050")
        with self._lock:
            if not self.cuts or self._chance.randrange(self._every):
                return data
            self.cuts -= 1
            return Last(data[: self._chance.randrange(len(data) + 1)]) if self._chance.random() < 0.8 else None


@pytest.fixture
def cutting(shared_server):
    proxy = Proxy(("127.0.0.1", shared_server.port))
    proxy.http_url = f"http://127.0.0.1:{proxy.port}"
    yield proxy
    proxy.close()


@on_a_loop
async def test_each_event_with_an_id_is_stored_once(connect, shared_server, cutting, topic):
    cutting.upward, cutting.downward = Cutter(30, 5), Cutter(30, 5)
    async with connect(cutting.http_url, patience=120) as client:

        async def produce(producer):
            for n in range(20):
                await client.publish(topic, [{"producer": producer, "n": n, "part": part} for part in "ab"], ids=True)

        await asyncio.gather(*map(produce, range(8)))
    assert (cutting.upward.cuts, cutting.downward.cuts) == (0, 0)
    async with connect(shared_server.url) as client:
        found = [(event["producer"], event["n"], event["part"]) async for event in client.history(topic)]
    assert len(found) == len(set(found)) == 8 * 20 * 2
    for producer in range(8):
        own = [(n, part) for one, n, part in found if one == producer]
        assert own == [(n, part) for n in range(20) for part in "ab"]


@on_a_loop
async def test_a_watch_misses_nothing_and_its_states_are_the_servers(connect, shared_server, cutting, topic):
    cutting.downward = Cutter(5, 3)
    reasons = []
    events, stats, latest = f"events/{topic}?type=a", f"stats/{topic}?window=5m", f"latest/job.{topic}"
    offsets, over = [], False

    async def read(watch):
        async for change in watch:
            if change.subscription == events:
                assert change.name == "event"
                offsets.append(change.data["$offset"])
            if over:
                return

    async with (
        connect(shared_server.url) as producer,
        connect(cutting.http_url, patience=120, on_outage=reasons.append) as client,
        client.watch(events, stats, latest, last_id="earliest") as watch,
    ):
        reading = asyncio.create_task(read(watch))
        n = 0
        while cutting.downward.cuts or n < 20:
            n += 1
            await producer.publish(topic, [{"key": f"k{n % 7}", "type": "a", "x": n}, {"type": "b", "x": -n}])
            gone = {"key": f"k{n % 5}", "type": "delete" if n % 3 == 0 else "set", "n": n}
            await producer.publish(f"job.{topic}", gone)
            await asyncio.sleep(0.02)
        await until_async(lambda: len(offsets) == n)
        await until_async(lambda: rows(watch.states[stats], topic) == served_rows(shared_server, topic))
        await until_async(lambda: list(watch.states[latest]) == served_events(shared_server, topic))
        assert watch.states[stats].get("k1", "x")["window"] == "5m"
        over = True
        await producer.publish(topic, {"type": "a"})
        await reading
    assert offsets[:n] == list(range(1, 2 * n, 2))


def rows(state, topic):
    """Return the rows of statistics that a snapshot has."""
    window = state.windows.get((topic, "5m"))
    return window and {name: row for name, row in window.rows.items() if row[2] or name[0] is None}


def served_rows(server, topic):
    return {tuple(row[:2]): row for row in server.stats(topic, "?window=5m")["data"]}


def served_events(server, topic):
    return server.get(f"/v1/topics/job.{topic}/latest").json()["events"]


@on_a_loop
async def test_states_follow_removed_rows_and_deleted_topics(connect, stack, topic):
    stack.configure('[topics."*.a"]\nwindows = ["10s"]\n')
    stack.start_aggregator()
    stack.start_web()
    stats, latest, over = f"stats/{topic}.>", f"latest/job.{topic}", False
    names = set()

    async def read(watch):
        async for change in watch:
            names.add(change.name)
            if over:
                return

    async with connect(stack.url) as client, client.watch(stats, latest) as watch:
        reading = asyncio.create_task(read(watch))
        await client.publish(f"{topic}.a", [{"key": "gone", "x": 1}, {"key": "stays", "x": 1}])
        await client.publish(f"job.{topic}", [{"key": "gone"}, {"key": "stays"}])
        await until_async(lambda: watch.states[stats].get("gone", "x") and watch.states[latest].get("stays"))

        async def left():
            await client.publish(f"{topic}.a", {"key": "stays", "x": 1})
            return not watch.states[stats].get("gone")

        await until_async(left)
        assert watch.states[stats].get("stays", "x")["count"] > 0
        await client.publish(f"job.{topic}", {"key": "gone", "type": "delete"})
        await until_async(lambda: [event["key"] for event in watch.states[latest]] == ["stays"])
        stack.request("DELETE", f"/v1/topics/{topic}.a")
        stack.request("DELETE", f"/v1/topics/job.{topic}")
        await until_async(lambda: not [row for row in watch.states[stats] if row["count"]])
        await until_async(lambda: not list(watch.states[latest]))
        await client.publish(f"job.{topic}", {"key": "new"})
        await until_async(lambda: [event["key"] for event in watch.states[latest]] == ["new"])
        over = True
        await client.publish(f"job.{topic}", {"key": "new"})
        await reading
    assert names >= {"snapshot", "update", "reset"}
