"""Columns of a batch, against the columns of its decoded events."""

import json
import struct

from pushsvc.event import Event
from pushsvc.event.columns import NO_TIME, Columns


def plain(columns):
    """Return columns in a form that can be compared, bit for bit."""
    times = [NO_TIME] * len(columns) if columns.times is None else columns.times.tolist()
    fields = {}
    for name, column in columns.fields.items():
        positions = range(len(columns)) if column.positions is None else column.positions.tolist()
        fields[name] = {
            at: struct.pack("d", value) for at, value in zip(positions, column.values.tolist(), strict=True)
        }
    values = {name: [(type(one), one) for one in column.values] for name, column in columns.values.items()}
    assert all(column.mixed or bool not in map(type, column.values) for column in columns.values.values())
    return [list(keys) for keys in columns.keys], times, fields, values


def encode(*items):
    return b"\n".join(json.dumps(item).encode() for item in items)


def check(reader, data, groupings=("key",), valued=()):
    wanted = plain(Columns.from_events([Event.decode(line) for line in data.split(b"\n")], groupings, valued))
    assert plain(reader.read(data)) == wanted
    assert plain(reader.read(data)) == wanted  # the second time with the learned schema
