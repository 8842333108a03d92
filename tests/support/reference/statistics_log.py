"""A log of frames as an aggregator writes it, and what a client makes of frames."""

import json

import orjson

from pushsvc.broker.log import FrameKind, StatisticsEntry

COLUMNS = ["key", "field", "count"]


def entries(steps):
    """Return a log as an aggregator writes it. A baseline (b) repeats all rows, a snapshot (s) starts over."""
    state, made = {}, []
    for number, (kind, rows, gone) in enumerate([("s", [], []), *steps], 1):
        changed = {row[0]: list(row) for row in rows}
        gone = [key for key in gone if key not in changed and key in state]
        if kind == "b":
            changed, gone = {key: row for key, row in state.items() if row[2] or key is None}, []
        elif kind == "s":
            state, gone = {}, []
        state = {key: row for key, row in {**state, **changed}.items() if key not in gone}
        frame = {"columns": COLUMNS, "offset": number, "data": list(changed.values())}
        if kind == "u":
            frame["gone"] = [[key, "n"] for key in gone]
        made.append(StatisticsEntry(FrameKind(kind), number * 3, number, 0, number, json.dumps(frame).encode()))
    return made


def decoded(frame):
    """Return a frame whose rows are kept as texts as a client gets it."""
    return orjson.loads(orjson.dumps(frame))


class Client:
    def __init__(self):
        self.rows = {}

    def take(self, frame, *, snapshot):
        if snapshot:
            self.rows.clear()
        for key, _ in frame.get("gone", ()):
            self.rows.pop(key, None)
        self.rows.update({row[0]: row for row in frame["data"]})

    def live(self):
        return {key: row for key, row in self.rows.items() if row[2] or key is None}
