"""Parts of a topic in this process, and frames of theirs beside those of one engine."""

import dataclasses
import json
from collections import deque

import msgspec
import orjson

from pushsvc.aggregate.aggregate import Aggregate
from pushsvc.event.columns import ColumnReader
from pushsvc.worker.shards.messages import Answer, Question, encode
from pushsvc.worker.shards.pool import Split
from pushsvc.worker.shards.process import Counter
from support.accounts.numbers import T, assert_same

PARTS = 3


class Beside:
    """A part in this process: an example needs no processes of its own. Messages are bytes all the same."""

    def __init__(self, _number):
        self.counter = None
        self.answers = deque()

    def send(self, message):
        question = msgspec.msgpack.decode(message[4:], type=Question)
        if self.counter is None:
            self.counter, answer = Counter.begin(question)
        else:
            answer = self.counter.answer(question)
        if answer is not None:
            self.answers.append(encode(answer)[4:])

    def answer(self):
        return msgspec.msgpack.decode(self.answers.popleft(), type=Answer)

    def end(self):
        pass


def split_of(options, **changes):
    split = Split(dataclasses.replace(options, parts=PARTS, **changes), T, Beside)
    split.open("t", T)
    return split


def whole_of(options, **changes):
    whole = Aggregate(dataclasses.replace(options, **changes), T)
    whole.open("t", T)
    return whole


def stored(now, batch):
    """Return an entry as it is in the log."""
    lines = []
    for shift, key, data in batch:
        attributes = {"time": None if shift is None else now + shift, "key": key}
        lines.append(orjson.dumps({name: value for name, value in attributes.items() if value is not None} | data))
    return b"\n".join(lines)


def play(series, whole, split, key=("key",)):
    """Play a series to both; yield the time, and whether somebody looks, after each step."""
    now, offset, reader = T + 17, 0, ColumnReader(key)
    for gap, batch, look in series:
        now += gap
        if batch:
            offset += len(batch)
            data = stored(now, batch)
            whole.apply("t", offset, now, reader.read(data))
            split.apply("t", offset, now, data, told=False)
        whole.advance(now)
        split.advance(now)
        for one in (whole, split):  # nobody waits for having said much: a byte more or less would make a difference
            one._paces._rest[:] = 0
        whole._wake_known = False
        yield now, look


def names_and(frame):
    """Return the rows of a frame by key, field and grouping, and those that are gone."""
    said = json.loads(frame.to_json(T))
    by = len(said["columns"]) if said["columns"][-1] == "by" else None
    rows = {
        (row[0], row[1], *row[by - 1 :]) if by else (row[0], row[1]): row[2 : by and by - 1] for row in said["data"]
    }
    assert len(rows) == len(said["data"])
    return rows, sorted(map(tuple, said["gone"]), key=repr)


def assert_frames(whole, split):
    """All but the order of the rows is the same, std to its last bits."""
    for one, other in zip(whole, split, strict=True):
        (rows, gone), (own, own_gone) = names_and(one), names_and(other)
        assert_same(own, rows, exact=10**9)
        assert own_gone == gone
        heads = [
            (frame.window, frame.kind, frame.start, frame.end, frame.offset, frame.since, frame.ending)
            for frame in (one, other)
        ]
        assert heads[0] == heads[1]
