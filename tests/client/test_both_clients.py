"""``Client`` and ``AsyncClient`` do the same: each test runs with both, against a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from pushsvc_client import ClientError, InvalidValue, subscription
from support.both_clients import CLIENTS, on_a_loop, until_async
from support.ports import free_port


@pytest.fixture(params=list(CLIENTS))
def connect(request):
    return CLIENTS[request.param]


@pytest.fixture
def connect_async():
    return CLIENTS["AsyncClient"]


# Publish


@on_a_loop
async def test_every_shape_of_events_is_published(connect, shared_server, topic):
    async with connect(shared_server.url) as client:
        assert (await client.publish(topic, {"id": "a", "x": 1}))["first_offset"] == 1
        receipt = await client.publish(topic, ({"id": n, "x": np.float32(n)} for n in range(5)), batch_size=2)
        assert (receipt["accepted"], receipt["first_offset"], receipt["last_offset"]) == (5, 2, 6)
        assert (await client.publish(topic, b'{"id":"a","x":1}'))["duplicates"] == 1
        frame = pd.DataFrame({"dish": ["soup", "pizza"], "rating": [4, 5]})
        assert (await client.publish(topic, frame, key="dish"))["last_offset"] == 8
        assert [event["key"] async for event in client.history(topic, where="rating>4")] == ["pizza"]


@on_a_loop
async def test_events_of_an_asynchronous_iterable_are_published(connect_async, shared_server, topic):
    async def numbers() -> AsyncIterator[dict[str, int]]:
        for n in range(5):
            await asyncio.sleep(0)
            yield {"n": n}

    async with connect_async(shared_server.url) as client:
        receipt = await client.publish(topic, numbers(), batch_size=2)
        assert receipt["last_offset"] == 5
        assert [event["n"] async for event in client.history(topic)] == [0, 1, 2, 3, 4]


@on_a_loop
async def test_events_get_ids_if_asked_for(connect, shared_server, topic):
    async with connect(shared_server.url) as client:
        await client.publish(topic, [{"x": 1}, {"x": 2, "id": None}, {"x": 3, "id": "mine"}], ids=True)
        ids = [event["id"] async for event in client.history(topic)]
        assert ids[2] == "mine"
        assert len(set(ids)) == 3
        assert ids[0].removesuffix("0") == ids[1].removesuffix("1")


@on_a_loop
async def test_many_tasks_share_a_client(connect, shared_server, topic):
    async with connect(shared_server.url) as client:
        receipts = await asyncio.gather(*(client.publish(topic, {"n": n}) for n in range(300)))
        assert sorted(receipt["first_offset"] for receipt in receipts) == list(range(1, 301))


@on_a_loop
async def test_a_refusal_has_the_problem_and_what_was_stored_before(connect, shared_server, topic):
    async with connect(shared_server.url) as client:
        with pytest.raises(ClientError, match="400") as caught:
            await client.publish(topic, [{"x": 1}, {"key": "x" * 300}], batch_size=1)
        assert caught.value.receipt["accepted"] == 1
        assert caught.value.problem["errors"][0]["line"] == 1


@on_a_loop
async def test_events_are_corrected_and_deleted(connect, shared_server, topic):
    async with connect(shared_server.url) as client:
        await client.publish(topic, [{"id": "a", "x": 1}, {"id": "b", "x": 2}])
        await client.correct(topic, "a", {"x": 5})
        for wrong in (Decimal("1.5"), float("nan")):
            with pytest.raises(InvalidValue, match="field 'x'"):
                await client.correct(topic, "a", {"x": wrong})
        await client.delete_event(topic, 2)
        assert [event["x"] async for event in client.history(topic)] == [5]
        assert (await client.event(topic, "a"))["event"]["x"] == 5
        await client.delete_event(topic, 1, erase=True)
        with pytest.raises(ClientError, match="410"):
            await client.correct(topic, 1, {"x": 6})


@on_a_loop
async def test_a_server_that_is_away_is_temporary(connect):
    reasons = []
    async with connect(f"http://127.0.0.1:{free_port()}", patience=0, on_outage=reasons.append) as client:
        with pytest.raises(ClientError, match="cannot be reached") as caught:
            await client.publish("t", {"x": 1})
        assert (caught.value.temporary, caught.value.unknown) == (True, False)
        with pytest.raises(ClientError, match="cannot be reached"):
            await anext(client.events("t"))
        assert len(reasons) == 1


# Read


@on_a_loop
async def test_topics_and_tables_are_read(connect, shared_server, topic):
    async with connect(shared_server.url) as client:
        last = (await client.publish(topic, [{"key": "ab"[n % 2], "n": n} for n in range(10)]))["last_offset"]
        assert (await client.topic(topic))["last_offset"] == 10
        assert [one["topic"] for one in await client.topics(search=topic, limit=1)] == [topic]
        table = await client.table(topic, window="5m", at_least=last)
        assert table.set_index(["key", "field"]).loc[("a", "n"), "sum"] == 20
        now = await client.stats(topic, window="5m", key="a", field="n").df()
        assert (now.index.name, now["sum"].tolist()) == ("time", [20.0])
        series = client.series(topic, window="1m", key="b", field="n", stat="count")
        await until_async(lambda: _has_counts(series))
        assert (await series.df()).index.tz is UTC
        pieces = [piece async for piece in client.export(topic, "csv")]
        assert b"".join(pieces).count(b"\n") == 11
        assert len(await client.history(topic).df()) == 10


async def _has_counts(series):
    return [row async for row in series if row["count"]]


@on_a_loop
async def test_newest_events_are_a_table(connect, shared_server, topic):
    async with connect(shared_server.url) as client:
        job = f"job.{topic}"
        empty = await client.latest(job).df()
        assert (len(empty), empty.index.name) == (0, "key")
        await client.publish(job, [{"key": "a", "done": 1}, {"key": "b", "done": 2}, {"key": "a", "done": 3}])
        table = await client.latest(job).df()
        assert table["done"].to_dict() == {"a": 3, "b": 2}
        assert table["time"].dt.tz is UTC
        one = await client.latest(job, key="b").df()
        assert one.index.tolist() == ["b"]


# Streams


@on_a_loop
async def test_a_stream_has_events_and_statistics_of_patterns(connect, shared_server, topic):
    async with connect(shared_server.url) as client:
        await client.publish(f"{topic}.a", [{"x": 1}])
        wanted = {(f"{topic}.a", "message"), (f"{topic}.a", "snapshot")}
        async with client.stream(events=[f"{topic}.*"], stats=[f"{topic}.>"], last_id="earliest", window="5m") as found:
            async for message in found:
                body = json.loads(message.data)
                wanted.discard((body.get("$topic") or body.get("topic"), message.event))
                if not wanted:
                    return


@on_a_loop
async def test_a_refused_stream_raises(connect, shared_server, topic):
    async with connect(shared_server.url) as client:
        with pytest.raises(ClientError, match="window"):
            await anext(client.stats(topic, window="7 weeks"))
        with pytest.raises(ClientError, match=r"sub\[0\]"):
            await anext(client.watch(f"stats/{topic}?window=7y"))


@on_a_loop
async def test_progress_is_published(connect_async, shared_server, topic):
    job = f"job.{topic}"
    async with connect_async(shared_server.url) as client:
        async with client.progress(job, total=4, every=0.1, stage="reading") as progress:
            progress.update()
            await until_async(lambda: _done(client, job, 1))
            progress.set(4, stage="writing")
        [event] = [event async for event in client.history(job) if event["state"] == "done"]
        assert (event["done"], event["remaining"], event["stage"]) == (4, 0, "writing")
        with pytest.raises(ValueError, match="closed"):
            progress.update()
        with pytest.raises(LookupError):
            async with client.progress(job, key="other"):
                raise LookupError("no such row")
        last = [event async for event in client.history(job, key="other")][-1]
        assert last["state"] == "failed"


async def _done(client, job, number):
    return [event async for event in client.history(job) if event["done"] == number]


@on_a_loop
async def test_a_server_that_is_away_fails_no_job(connect_async):
    async with connect_async(f"http://127.0.0.1:{free_port()}", patience=0) as client:
        async with client.progress("job.1", total=1) as progress:
            progress.update()
        assert isinstance(progress.error, ClientError)


# Subscriptions


def test_a_subscription_is_escaped():
    assert subscription("stats", "flights") == "stats/flights"
    assert (
        subscription("events", "orders.>", key="a&b", type=["x", "y z"]) == "events/orders.>?key=a%26b&type=x&type=y+z"
    )


@on_a_loop
async def test_a_watch_has_decoded_changes_of_several_subscriptions(connect, shared_server, topic):
    orders = subscription("events", f"{topic}.*", type="created", key="ü&=1")
    job, stats = f"latest/job.{topic}", f"stats/{topic}.a?window=5m"
    async with connect(shared_server.url) as client, client.watch(orders, job, stats) as watch:
        assert watch.state is watch.states[orders]
        found = {}
        seen = asyncio.create_task(_collect(watch, found, {orders: "event", job: "update"}))
        await until_async(lambda: {job, stats} <= found.keys())
        await client.publish(f"{topic}.a", [{"key": "ü&=1", "type": "created", "sub": "mine"}, {"type": "created"}])
        await client.publish(f"job.{topic}", {"key": "k", "done": 1})
        await seen
        event = found[orders]["event"].data
        assert (event["sub"], event["$topic"], "$sub" in event) == ("mine", f"{topic}.a", False)
        assert {change.name for changes in found.values() for change in changes.values()} <= set(NAMES)
        assert list(watch.states[orders]) == []
        assert watch.states[job].get("k")["done"] == 1


NAMES = "event", "snapshot", "update"


async def _collect(watch, found, wanted):
    """Note the first change of each name and subscription until those that are wanted are there."""
    async for change in watch:
        found.setdefault(change.subscription, {}).setdefault(change.name, change)
        if all(name in found.get(text, ()) for text, name in wanted.items()):
            return


@pytest.mark.parametrize("wrong", [(), ("stats/a", "stats/a"), ("stats/a?shape=records",)])
def test_a_watch_without_or_with_equal_subscriptions_is_refused(connect, wrong):
    with pytest.raises(ValueError, match="a watch"):
        connect("http://127.0.0.1:1").watch(*wrong)


@on_a_loop
async def test_functions_are_called_with_events(connect, shared_server, topic):
    taken = []
    async with connect(shared_server.url) as client:

        @client.on(topic, type="created")
        def created(event):
            taken.append(event["x"])
            if event["x"] == 3:
                raise LookupError("enough")

        await client.publish(topic, [{"type": "created", "x": 1}, {"type": "other", "x": 2}])
        running = asyncio.create_task(client.run(last_id="earliest"))
        await until_async(lambda: taken == [1])
        await client.publish(topic, [{"type": "created", "x": 3}, {"type": "created", "x": 4}])
        with pytest.raises(LookupError):
            await running
    assert taken == [1, 3]


@on_a_loop
async def test_asynchronous_functions_handle_events_one_after_another(connect_async, shared_server, topic):
    taken = []
    async with connect_async(shared_server.url) as client:

        @client.on(topic)
        async def handle(event):
            await asyncio.sleep(0.01 * (3 - event["x"]))
            taken.append(event["x"])

        await client.publish(topic, [{"x": x} for x in range(3)])
        running = asyncio.create_task(client.run(last_id="earliest"))
        await until_async(lambda: len(taken) == 3)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert taken == [0, 1, 2]
