"""Rolling statistics of one minute and 1,000 keys with other libraries; one run per process.

``python benchmarks/peers.py NAME RATE PART`` prints CPU seconds per event, of parsing (the floor, which shows the
speed of the machine) and of the peer; RATE is events per second of event time, PART divides the number of events. All
libraries get the same events in order, as objects in memory, and are used as in their manuals:

river        ``TimeRolling(Var)`` and ``TimeRolling(Sum)`` for each key, updated event by event, never read;
             ``river-unexpired`` has one second of events, so none leaves its windows: its least cost
streamz      ``window("60s").groupby("key")`` with count, sum, mean and std, data frames of 1,000 rows
bytewax      ``fold_window`` over 60 s sliding by 1 s, events ordered by arrival (the cheaper way), TestingSource
quixstreams  ``hopping_window`` of 60 s by 1 s with ``reduce`` and ``final``; the pipeline is called directly, without
             Kafka, and its state is committed every 1,000 events; without parsing and changelog

Windows are full when the measurement starts. bytewax and quixstreams start empty, so a short run is subtracted from a
longer one.
"""

from __future__ import annotations

import datetime as dt
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import numpy as np

from measure import BATCH, START, cpu, draw_values, floor_now, key_names

KEYS = 1_000
LENGTH = dt.timedelta(seconds=60)
HOP = dt.timedelta(seconds=1)
BEGIN = dt.datetime.fromtimestamp(START // 1_000, dt.UTC)
EMPTY = (0, 0.0, 0.0, float("inf"), float("-inf"))

Partial = tuple[int, float, float, float, float]
Event = tuple[str, dt.datetime, float]


def events(count: int, rate: int) -> list[Event]:
    """Return events in order of time."""
    random, names = np.random.default_rng(2), key_names(KEYS)
    keys, values = random.integers(0, KEYS, count).tolist(), draw_values(random, count).tolist()
    step = dt.timedelta(seconds=1) / rate
    return [
        (names[key], BEGIN + number * step, value) for number, (key, value) in enumerate(zip(keys, values, strict=True))
    ]


def fold(held: Partial, value: float) -> Partial:
    """Add one value to count, sum, sum of squares, min and max."""
    count, total, squares, low, high = held
    return count + 1, total + value, squares + value * value, min(low, value), max(high, value)


def river_unexpired(rate: int, part: int) -> float:
    return river(rate, part, 1)


def river(rate: int, part: int, seconds: int = 60) -> float:
    from river import stats, utils

    full, measured = seconds * rate, 60_000 // part
    rolling: dict[str, tuple[Any, Any]] = {
        name: (utils.TimeRolling(stats.Var, period=LENGTH), utils.TimeRolling(stats.Sum, period=LENGTH))
        for name in key_names(KEYS)
    }
    given = [(key, time.replace(tzinfo=None), value) for key, time, value in events(full + measured, rate)]

    def feed(chosen: list[Event]) -> None:
        for key, time, value in chosen:
            variance, total = rolling[key]
            variance.update(value, t=time)
            total.update(value, t=time)

    feed(given[:full])
    return cpu(lambda: feed(given[full:])) / measured


def streamz(rate: int, part: int) -> float:
    import pandas as pd
    from streamz import Stream
    from streamz.dataframe import DataFrame

    def frames() -> Iterator[pd.DataFrame]:
        for first in range(0, len(given), BATCH):
            keys, times, values = zip(*given[first : first + BATCH], strict=True)
            yield pd.DataFrame({"key": keys, "value": values}, index=pd.DatetimeIndex(times))

    full, measured = 60 * rate, 60_000 // part
    given = events(full + measured, rate)
    batches = list(frames())
    source: Any = Stream()
    grouped = DataFrame(source, example=batches[0].iloc[:0]).window(value="60s").groupby("key")["value"]
    results: list[int] = []
    for statistic in ("count", "sum", "mean", "std"):
        getattr(grouped, statistic)().stream.sink(lambda found: results.append(len(found)))

    def feed(chosen: list[pd.DataFrame]) -> None:
        for frame in chosen:
            source.emit(frame)

    feed(batches[: full // BATCH])
    return cpu(lambda: feed(batches[full // BATCH :])) / measured


def marginal(run: Callable[[list[Event]], float], rate: int, part: int) -> float:
    """Return seconds per event of a longer run minus a shorter one: both contain the cost of start and end.

    Each is first divided by the floor of its time, because the speed of the machine may change between them.
    """
    short, long = 5 * rate, (5 + max(5, 20 // part)) * rate
    given = events(long, rate)
    costs = {count: min(in_floors(run, given[:count]) for _ in range(2)) for count in (short, long)}
    return (costs[long] - costs[short]) / (long - short) * floor_now()


def in_floors(run: Callable[[list[Event]], float], given: list[Event]) -> float:
    before, cost = floor_now(), run(given)
    return cost * 2 / (before + floor_now())


def bytewax(rate: int, part: int) -> float:
    from bytewax import operators
    from bytewax.dataflow import Dataflow
    from bytewax.operators.windowing import EventClock, SlidingWindower, fold_window
    from bytewax.testing import TestingSink, TestingSource, run_main

    def run(given: list[Event]) -> float:
        flow = Dataflow("rolling")
        source = TestingSource([(key, (time, value)) for key, time, value in given], batch_size=BATCH)
        keyed = operators.input("in", flow, source)
        clock = EventClock(ts_getter=lambda event: event[0], wait_for_system_duration=dt.timedelta(0))
        windower = SlidingWindower(length=LENGTH, offset=HOP, align_to=BEGIN)
        folded = fold_window(
            "fold", keyed, clock, windower, lambda: EMPTY, lambda held, event: fold(held, event[1]), add, ordered=False
        )
        operators.output("out", folded.down, TestingSink([]))
        return cpu(lambda: run_main(flow))

    def add(a: Partial, b: Partial) -> Partial:
        return a[0] + b[0], a[1] + b[1], a[2] + b[2], min(a[3], b[3]), max(a[4], b[4])

    return marginal(run, rate, part)


def quixstreams(rate: int, part: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        runs = count()
        return marginal(lambda given: hop(given, f"{folder}/{next(runs)}"), rate, part)


def hop(given: list[Event], folder: str) -> float:
    """Call a pipeline of quixstreams with each event, with its state in ``folder``; return CPU seconds."""
    from quixstreams import Application
    from quixstreams.context import set_message_context
    from quixstreams.models import MessageContext
    from quixstreams.models.topics import Topic, TopicConfig

    app = Application(
        broker_address="localhost:1",
        state_dir=folder,
        use_changelog_topics=False,
        auto_create_topics=False,
        loglevel="ERROR",
    )
    topic = Topic("rolling", create_config=TopicConfig(1, 1))
    topic.broker_config = TopicConfig(1, 1, {"retention.ms": "-1"})
    window = app.dataframe(topic).hopping_window(LENGTH, HOP)
    frame = window.reduce(
        lambda held, event: fold(held, event["value"]), lambda event: fold(EMPTY, event["value"])
    ).final()
    context = app._processing_context
    app._state_manager.on_partition_assign(frame.stream_id, 0, {topic.name: 0})
    context.init_checkpoint()
    results: list[object] = []
    pipeline: Any = frame.compose(sink=lambda value, key, time, headers: results.append(value))[topic.name]
    set_message_context(MessageContext(topic.name, 0, 0, 0))
    messages = [({"value": value}, key.encode(), int(time.timestamp() * 1_000)) for key, time, value in given]

    def commit() -> None:
        for transaction in context.checkpoint._store_transactions.values():
            transaction.prepare(processed_offsets={topic.name: 0})
            transaction.flush()
        context.init_checkpoint()

    def feed() -> None:
        for number, (value, key, time) in enumerate(messages, 1):
            pipeline(value, key, time, None)
            if number % BATCH == 0:
                commit()

    return cpu(feed)


PEERS: dict[str, Callable[[int, int], float]] = {
    "river": river,
    "river-unexpired": river_unexpired,
    "streamz": streamz,
    "bytewax": bytewax,
    "quixstreams": quixstreams,
}


if __name__ == "__main__":
    name, rate, part = sys.argv[1:]
    floor = floor_now()
    cost = PEERS[name](int(rate), int(part))
    print(min(floor, floor_now()), cost)
