"""Requests within all limits, by a grammar: each body is an event, repeated, and each query has counts of parameters.

Hypothesis changes the counts and kinds, not the bytes, so that it reaches the limits.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlencode

from hypothesis import strategies as st

from pushsvc.event import Limits

LIMITS = Limits()
TOPIC = "searched"

VALUES = {
    "whole number": "7",
    "negative number": "-0",
    "long number": "1234567890123456789",
    "long fraction": "0." + "3" * 300,
    "exponent": "1e-300",
    "text": '"a"',
    "long text": '"' + "a" * 1_000 + '"',
    "escaped text": '"' + '\\u00e9\\n\\"' * 50 + '"',
    "surrogate pairs": '"' + "\\ud83d\\ude00" * 50 + '"',
    "other text": '"' + "\N{SNOWMAN}" * 50 + '"',
    "formula": '"=1+1"',
    "null": "null",
    "true": "true",
    "empty list": "[]",
    "list": "[" + ",".join("1" * 100) + "]",
    "empty object": "{}",
}
TIMES = (None, '"2026-01-01T00:00:00.123456789+05:45"', "1767225600000")
MEDIA_TYPES = {
    "array": "application/json",
    "lines": "application/x-ndjson",
    "table": "text/csv",
    "cloud": "application/cloudevents-batch+json",
}


@dataclass(frozen=True)
class Call:
    """A request, and how its making is described."""

    told: str
    method: str
    path: str
    body: bytes = b""
    media_type: str = "application/json"

    @property
    def size(self) -> int:
        """Bytes that a client sends, about."""
        return len(self.path) + len(self.body) + 100


@st.composite
def publishes(draw: st.DrawFn, *, most_bytes: int = LIMITS.body) -> Call:
    """Publish calls: ``count`` events of ``names`` members with values of two kinds, one of them ``depth`` deep."""
    form = draw(st.sampled_from(sorted(MEDIA_TYPES)))
    kinds = draw(st.tuples(st.sampled_from(sorted(VALUES)), st.sampled_from(sorted(VALUES))))
    names = draw(st.integers(1, LIMITS.names - 10))
    numbers = draw(st.integers(0, LIMITS.fields - 2))
    depth = draw(st.integers(0, LIMITS.depth - 3))
    count = draw(st.integers(1, LIMITS.batch))
    new_names, new_keys, ids = (draw(st.booleans()) for _ in range(3))
    time = draw(st.sampled_from(TIMES))
    told = f"{count} × {names} × {kinds}, depth {depth}, {numbers} numbers, {new_names=} {new_keys=} {ids=} {time=}"

    def event(number: int) -> str:
        prefix = f"n{number}_" if new_names else "n"
        members = [f'"{prefix}{place}":{_not_number(VALUES[kinds[place % 2]])}' for place in range(names)]
        members += [f'"f{place}":{number}.5' for place in range(numbers)]
        members.append('"deep":' + '{"a":' * depth + "1" + "}" * depth)
        members.append(f'"key":"k{number if new_keys else 0}"')
        if form == "cloud":
            members = ['"data":{' + ",".join(members) + "}", '"source":"s"', '"specversion":"1.0"', f'"id":"{number}"']
            members.append('"type":"t"')
        elif ids:
            members.append(f'"id":"{number}"')
        if time is not None and form != "cloud":
            members.append(f'"time":{time}')
        return "{" + ",".join(members) + "}"

    if form == "table":
        cell = VALUES[kinds[0]].replace('"', "").replace(",", "")
        row = ",".join([cell] * names) + ",1" * numbers
        header = ",".join([f"n{place}" for place in range(names)] + [f"f{place}" for place in range(numbers)])
        count = min(count, max(1, (most_bytes - len(header)) // (len(row.encode()) + 1)))
        body = "\n".join([header, *[row] * count]).encode()
    else:
        count = min(count, max(1, most_bytes // (len(event(count).encode()) + 1)))
        events = [event(number) for number in range(count)]
        body = ("\n".join(events) if form == "lines" else "[" + ",".join(events) + "]").encode()
    return Call(f"publish {form}: {told}", "POST", f"/v1/topics/{TOPIC}/events", body, MEDIA_TYPES[form])


def _not_number(value: str) -> str:
    """Return a value that is no number at the top of an event: there may be 32 of those."""
    return f"[{value}]" if value[0] in "-0123456789" else value


@st.composite
def reads(draw: st.DrawFn) -> Call:
    """Requests for history, statistics and topics."""
    resource = draw(st.sampled_from(("events", "stats", "topics")))
    form = draw(st.sampled_from(("json", "csv", "ndjson") if resource == "events" else ("json", "csv")))
    if resource == "topics":
        query = [("search", "*".join("s" * draw(st.integers(0, 50)))), ("limit", draw(st.integers(1, 1_000)))]
        path = f"/v1/topics?{urlencode([pair for pair in query if pair[1] != ''])}"
        return Call(path, "GET", path)
    if resource == "events":
        tests = draw(st.lists(st.sampled_from(("n0=a", "f0>1", "f1!=2", "deep=1", "nothing<3", "key=k1")), max_size=20))
        query = [("where", test) for test in tests] + [("limit", draw(st.integers(1, 10_000)))]
        query += [("key", "k1")] * draw(st.integers(0, 1)) + [("type", "message")] * draw(st.integers(0, 1))
    else:
        query = [("window", draw(st.sampled_from(("*", "1m", "5m", "15m"))))]
        query += [("key", f"k{number}") for number in range(draw(st.sampled_from((0, 0, 10, 1_000))))]
        query += [("field", f"f{number}") for number in range(draw(st.integers(0, 30)))]
        query += draw(st.sampled_from(([], [("top", 10)], [("top", 10_000)])))
        query += draw(st.sampled_from(([], [("shape", "records")]))) if form == "json" else []
    path = f"/v1/topics/{TOPIC}/{resource}.{form}?{urlencode(query)}"
    return Call(path[:300], "GET", path)
