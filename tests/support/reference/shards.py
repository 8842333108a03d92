"""Shards of a topic in this process, and their frames beside those of one engine."""

import dataclasses
import json
from collections import deque

import msgspec
import orjson

from pushsvc.aggregate.aggregate import Aggregate
from pushsvc.broker.log import EventsEntry
from pushsvc.event.columns import ColumnReader
from pushsvc.worker.shards.messages import Request, Response, encode
from pushsvc.worker.shards.pool import ShardPool
from pushsvc.worker.shards.process import ShardServer
from support.reference.numbers import T, assert_same

SHARDS = 3
NO_BOUND = 10**15  # the sizes of frames may differ by a byte, and would stretch the cadence


class LocalShard:
    """A shard in this process; messages are bytes all the same."""

    def __init__(self, _number):
        self.server = None
        self.answers = deque()

    def send(self, message):
        request = msgspec.msgpack.decode(message[4:], type=Request)
        if self.server is None:
            self.server, answer = ShardServer.open(request)
        else:
            answer = self.server.answer(request)
        if answer is not None:
            self.answers.append(encode(answer)[4:])

    def receive(self):
        return msgspec.msgpack.decode(self.answers.popleft(), type=Response)

    def end(self):
        pass


def pool_of(options, **changes):
    pool = ShardPool(dataclasses.replace(options, parts=SHARDS, **changes), T, LocalShard, bytes_per_second=NO_BOUND)
    pool.open("t", T)
    return pool


def whole_of(options, **changes):
    whole = Aggregate(dataclasses.replace(options, **changes), T, bytes_per_second=NO_BOUND)
    whole.open("t", T)
    return whole


def stored(now, batch):
    """Return the data of an entry as it is in the log."""
    lines = []
    for shift, key, data in batch:
        attributes = {"time": None if shift is None else now + shift, "key": key}
        lines.append(orjson.dumps({name: value for name, value in attributes.items() if value is not None} | data))
    return b"\n".join(lines)


def entry_of(offset, arrival, data, count=1):
    return EventsEntry(offset - count + 1, offset, offset, arrival, data)


def play(series, whole, pool, key=("key",)):
    """Play a series to both; yield the time after each step, and whether frames are read."""
    now, offset, reader = T + 17, 0, ColumnReader(key)
    for gap, batch, read in series:
        now += gap
        if batch:
            offset += len(batch)
            data = stored(now, batch)
            whole.apply("t", offset, now, reader.read(data))
            pool.apply_entries("t", [entry_of(offset, now, data, len(batch))], reported=False)
        whole.advance(now)
        pool.advance(now)
        yield now, read


def names_and(frame):
    """Return the rows of a frame by key, field and grouping, and the rows that are gone."""
    content = json.loads(frame.to_json(T))
    by = len(content["columns"]) if content["columns"][-1] == "by" else None
    rows = {
        (row[0], row[1], *row[by - 1 :]) if by else (row[0], row[1]): row[2 : by and by - 1] for row in content["data"]
    }
    assert len(rows) == len(content["data"])
    return rows, sorted(map(tuple, content["gone"]), key=repr)


def assert_frames(whole, sharded):
    """All but the order of the rows is the same."""
    for one, other in zip(whole, sharded, strict=True):
        (rows, gone), (own, own_gone) = names_and(one), names_and(other)
        assert_same(own, rows, exact=10**9)
        assert own_gone == gone
        heads = [
            (frame.window, frame.kind, frame.start, frame.end, frame.offset, frame.since, frame.ending)
            for frame in (one, other)
        ]
        assert heads[0] == heads[1]
