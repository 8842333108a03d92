"""``/v1/topics/{topic}/stats/series``: statistics of one row over time, computed from the log."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import orjson
from flask import Blueprint, Response, request

from pushsvc.aggregate.series import Series, SeriesQuery, series_of
from pushsvc.auth.grants import Action
from pushsvc.broker.broker import Broker
from pushsvc.broker.keys import Log
from pushsvc.broker.log import EventsEntry, LogRead, PartitionRead
from pushsvc.clock import format_time
from pushsvc.errors import InvalidParameter, NoStatistics, NotGranted, Unavailable
from pushsvc.event.columns import NO_TIME
from pushsvc.pause import Pause
from pushsvc.settings import TopicSettings
from pushsvc.stats.arrays import Floats, Ints
from pushsvc.stats.rows import OTHER
from pushsvc.stats.window import Window
from pushsvc.table import cell
from pushsvc.topic import check_topic
from pushsvc.web.authorization import granted
from pushsvc.web.context import Context
from pushsvc.web.long_requests import client_of
from pushsvc.web.memory.answer import GrowingAnswer
from pushsvc.web.parameters import FORMATS, Parameters, choose_format
from pushsvc.web.responses import of_suffix, text_response
from pushsvc.web.stats import check_grouped_by_key
from pushsvc.worker.entry_reader import EntryReader

_PARAMETERS = ("format", "window", "key", "by", "field", "stat", "since", "until", "step", "fill")
_WHOLE = ("count", "distinct")  # statistics that are whole numbers
_OF_EVENTS = ("count", "rate")  # statistics without a field
_POINTS = 300  # that an answer has at most, unless the request says a step
_MOST_POINTS = 10_000
_STEPS = tuple(n * 1_000 for n in (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 21_600, 43_200))
_LONGEST_STEP = 86_400.0  # seconds
_PIECE_EVENTS, _PIECE_BYTES = 1_000, 100_000  # that are read between two pauses
_NEWEST_BYTES = 100_000  # of the last events, which tell where a clock of events is


def blueprint(context: Context) -> Blueprint:
    resource = Blueprint("series", __name__, url_prefix="/v1/topics/<topic>/stats")

    @resource.get("/series")
    @resource.get("/series.<any(json, csv):suffix>")
    def read(topic: str, suffix: str | None = None) -> Response:
        settings = context.rules.settings_of(check_topic(topic))
        if not settings.windows:
            raise NoStatistics(topic)
        parameters = Parameters(request.args, _PARAMETERS)
        chosen = choose_format(request, parameters, ("json", "csv"), suffix)
        query = _query(context, topic, settings, parameters)
        fill = parameters.choice("fill", ("none", "zero", "last", "linear"), "none")
        wanted = _Span(parameters.time("since"), parameters.time("until"), _step(parameters, query.window))
        client = client_of(request)
        answer = GrowingAnswer(context.memory, client.address)
        with context.long.reading(client) as pause, closing(answer):
            found = _LogSeries(context.broker, topic, settings, query, pause).read(wanted)
            columns = {
                name: _filled(values, fill, whole=name in _WHOLE)
                for name, values in zip(query.names, found.values, strict=True)
            }
            pieces = _csv(found.times, columns) if chosen == "csv" else _json(topic, query, found, columns)
            for piece in pieces:
                answer.add(piece)
                pause()
            body = answer.bytes()
        response = text_response(body, FORMATS[chosen])
        response.headers["Cache-Control"] = "no-cache"
        response.set_etag(blake2b(body, digest_size=12).hexdigest())
        response.make_conditional(request)
        return of_suffix(response, suffix)

    return resource


# -- what a request asks for


def _query(context: Context, topic: str, settings: TopicSettings, parameters: Parameters) -> SeriesQuery:
    window = _window(settings, parameters)
    field, key = parameters.text("field") or None, parameters.text("key") or None
    if key == OTHER:
        raise InvalidParameter("key", f"{OTHER} has no series: which keys it has depends on the moment")
    for name, text, most in (("field", field, context.limits.name), ("key", key, context.limits.key)):
        if text is not None and len(text) > most:
            raise InvalidParameter(name, f"has at most {most} characters")
    limit = granted().keys(Action.SUBSCRIBE, topic)
    if limit is not None:
        check_grouped_by_key(topic, settings)
        if key not in limit:
            raise NotGranted(f"{topic} is granted for some keys only: name one of them with key=")
    grouping = settings.key.index(parameters.choice("by", settings.key, settings.key[0]))
    return SeriesQuery(window, _statistics(settings, parameters, field), field, key, grouping)


def _window(settings: TopicSettings, parameters: Parameters) -> Window:
    """Return the window that is asked for; without a name the first one that has a length."""
    timed = [window for window in settings.windows if window.length]
    if not timed:
        raise InvalidParameter("window", "this topic has no windows of time, and a series has no others")
    name = parameters.text("window")
    window = timed[0] if name is None else settings.window(name)
    if window is None or window not in timed:
        names = ", ".join(window.name for window in timed)
        raise InvalidParameter("window", f"{name!r} is not a window of time of this topic: choose one of {names}")
    return window


def _statistics(settings: TopicSettings, parameters: Parameters, field: str | None) -> tuple[str, ...]:
    """Return the names of the statistics, each once, in the order in which they are asked for."""
    texts = parameters.texts("stat")
    names = [name for text in texts for name in text.split(",")]
    if not texts:
        return ("count",) if field is None else ("mean", "count")
    if len(names) > len(settings.rankable) or len(set(names)) < len(names):
        raise InvalidParameter("stat", "names a statistic more than once")
    for name in names:
        if name not in settings.rankable:
            raise InvalidParameter("stat", f"{name!r} is none of {', '.join(settings.rankable)}")
        if field is None and name not in _OF_EVENTS:
            raise InvalidParameter("stat", f"{name} needs a field: name one with field=")
        if name == "distinct" and field not in settings.values:
            raise InvalidParameter("stat", f"distinct is kept of {', '.join(settings.values) or 'no field'} only")
    return tuple(names)


def _step(parameters: Parameters, window: Window) -> int | None:
    """Return the step in ms; None if the request has none."""
    seconds = parameters.duration("step", window.pane / 1_000, _LONGEST_STEP)
    step = round(seconds * 1_000)
    if step % window.pane:
        raise InvalidParameter(
            "step", f"{parameters.text('step')!r} is not a multiple of a pane of this window, {window.pane} ms"
        )
    return step or None


@dataclass(frozen=True, slots=True)
class _Span:
    """The times of a request in ms: from ``since`` on, before ``until``, every ``step``; None if it has none."""

    since: int | None
    until: int | None
    step: int | None

    def times(self, window: Window, reach: int, end: int) -> tuple[range, int]:
        """Return the times, which are multiples of the step, and the step, for a log with values from ``reach`` to
        ``end`` (ms)."""
        first = reach if self.since is None else max(self.since, reach)
        last = end if self.until is None else min(self.until - 1, end)
        step = self.step or _step_for(window, last - first)
        times = range(-(-first // step) * step, last + 1, step)
        if len(times) > _MOST_POINTS:
            raise InvalidParameter(
                "step",
                f"makes {len(times)} values, at most {_MOST_POINTS} are allowed: ask for a longer step, or since=",
            )
        return times, step


def _step_for(window: Window, span: int) -> int:
    """Return a step of whole panes that divides a span (ms) into at most ``_POINTS``."""
    least = max(window.pane, -(-span // (_POINTS - 1)))
    for step in _STEPS:
        if step >= least and step % window.pane == 0:
            return step
    return -(-least // window.pane) * window.pane


# -- from the log


@dataclass(frozen=True, slots=True)
class _Found:
    """Statistics [names, n] at times [n] (ms), and from where on the log has all that they need; None without a log."""

    times: Sequence[int]
    values: Floats
    reach: int | None
    step: int


class _LogSeries:
    """Reads a topic's log into a series."""

    def __init__(self, broker: Broker, topic: str, settings: TopicSettings, query: SeriesQuery, pause: Pause) -> None:
        self._broker = broker
        self._log = Log(topic)
        self._settings = settings
        self._query = query
        self._pause = pause
        self._by_event = settings.clock == "event"
        self._reader = EntryReader(topic, settings)
        self._needle = self._needle_of(query)

    def _needle_of(self, query: SeriesQuery) -> bytes | None:
        """Return bytes that each line of an event with the key has, if it has no escapes; None if that does not help:
        the clock of events needs all of them."""
        if self._by_event or query.key is None or self._settings.key[query.grouping] != "key":
            return None
        text = orjson.dumps(query.key)
        return None if b"\\" in text else text

    def read(self, wanted: _Span) -> _Found:
        window, read = self._query.window, self._read(0, budget=1)
        begun = read.logs[self._log]
        if not begun.entries:
            return _Found((), np.zeros((len(self._query.names), 0)), None, wanted.step or window.pane)
        first = self._first_clock(next((entry for entry in begun.entries if entry.data), begun.entries[0]))
        # The log had older events that the windows of its first minutes need. They are gone.
        reach = first + window.length if begun.trimmed > begun.deleted else first
        reach = (reach // window.pane + 1) * window.pane
        end = self._end() if self._by_event else read.now
        times, step = wanted.times(window, reach, end)
        series = series_of(self._settings, self._query, times, self._pause)
        if times:
            self._feed(series, times, begun, read.now)
        found, values = series.finish(read.now)
        return _Found(found, values, reach, step)

    def _read(self, offset: int, **budget: int) -> PartitionRead:
        return self._broker.read(self._log.partition, {self._log: offset}, current=True, **budget)

    def _first_clock(self, entry: EventsEntry) -> int:
        """Return where the clock (ms) was when it had read the log's first event."""
        times = self._times_of(entry) if self._by_event else None
        return entry.arrival if times is None or times[0] == NO_TIME else int(times[0])

    def _times_of(self, entry: EventsEntry) -> Ints | None:
        return self._reader.read(entry.last, entry.data).times

    def _end(self) -> int:
        """Return about where the clock of events (ms) is now, one pane on."""
        # The last events may be late: the greatest time of the last ones counts.
        newest = self._broker.read_back(self._log.topic, "+", budget=_NEWEST_BYTES).entries
        while newest and not any(entry.data for entry in newest):  # corrections, or every event was deleted
            newest = self._broker.read_back(self._log.topic, str(newest[-1].before), budget=_NEWEST_BYTES).entries
        clocks = []
        for entry in newest:
            times = self._times_of(entry) if entry.data else None
            clocks.append(entry.arrival if times is None else int(times.max()))
        last = max((clock for clock, entry in zip(clocks, newest, strict=True) if entry.data), default=0)
        return (last // self._query.window.pane + 1) * self._query.window.pane if last else 0

    def _feed(self, series: Series, times: range, begun: LogRead, now: int) -> None:
        """Add the events of the log that matter for the times."""
        offset = 0
        if not self._by_event:
            offset = self._broker.seek_arrival(self._log.topic, self._query.first_arrival(times[0]) - 1)
        while True:
            read = self._read(offset)
            logged = read.logs[self._log]
            if (logged.deleted, logged.created) != (begun.deleted, begun.created):
                raise Unavailable("the topic was deleted while its log was read")
            if offset and logged.entries and logged.entries[0].first > offset + 1 and logged.trimmed > begun.trimmed:
                raise Unavailable("events were trimmed before they were read")
            for piece in _pieces(logged.entries):
                self._add(series, piece)
                self._pause()
                if series.done or (not self._by_event and piece[-1].arrival >= max(now, times[-1])):
                    return
            if not logged.more or not logged.entries:
                return
            offset = logged.entries[-1].last

    def _add(self, series: Series, entries: Sequence[EventsEntry]) -> None:
        lines: list[bytes] = []
        arrivals: list[int] = []
        for entry in entries:
            kept = self._lines(entry.data)
            lines += kept
            arrivals += [entry.arrival] * len(kept)
        for begin in range(0, len(lines), _PIECE_EVENTS):
            piece, arrived = lines[begin : begin + _PIECE_EVENTS], np.array(arrivals[begin : begin + _PIECE_EVENTS])
            events = self._reader.read_together(piece, len(piece))
            if events is not None:
                series.add(events, arrived)
            else:
                for line, arrival in zip(piece, arrived, strict=True):
                    one = self._reader.read(entries[-1].last, line)
                    series.add(one, np.full(len(one), arrival))
            self._pause()

    def _lines(self, data: bytes) -> list[bytes]:
        """Return the lines of an entry that may have the key."""
        needle = self._needle
        if needle is None:
            return data.split(b"\n") if data else []
        if needle not in data and b"\\" not in data:
            return []
        return [line for line in data.split(b"\n") if needle in line or b"\\" in line]


def _pieces(entries: Iterable[EventsEntry]) -> Iterator[list[EventsEntry]]:
    """Yield entries in pieces that are read without a pause."""
    piece: list[EventsEntry] = []
    events = size = 0
    for entry in entries:
        piece.append(entry)
        events += entry.count
        size += entry.size
        if events >= _PIECE_EVENTS or size >= _PIECE_BYTES:
            yield piece
            piece, events, size = [], 0, 0
    if piece:
        yield piece


# -- the answer


def _filled(values: Floats, fill: str, *, whole: bool) -> list[Any]:
    """Return values with None, or what ``fill`` says, in place of those that are missing."""
    known = np.flatnonzero(~np.isnan(values))
    if fill == "zero":
        values = np.where(np.isnan(values), 0.0, values)
    elif fill != "none" and len(known):
        places = np.arange(len(values))
        if fill == "last":
            before = np.searchsorted(known, places, "right") - 1
            values = np.where(before >= 0, values[known[np.maximum(before, 0)]], np.nan)
        else:
            values = np.interp(places, known, values[known], left=np.nan, right=np.nan)
    whole = whole and fill != "linear"
    return [None if value != value else int(value) if whole else value for value in values.tolist()]


def _json(topic: str, query: SeriesQuery, found: _Found, columns: dict[str, list[Any]]) -> Iterator[bytes]:
    yield orjson.dumps(
        {
            "topic": topic,
            "window": query.window.name,
            "key": query.key,
            "field": query.field,
            "from": None if found.reach is None else format_time(found.reach),
            "step": found.step,
            "times": list(found.times),
            "stats": columns,
        }
    )


def _csv(times: Sequence[int], columns: dict[str, list[Any]]) -> Iterator[bytes]:
    """Yield the lines of a table: the time, and each statistic. It has no text of producers."""
    yield ",".join(["time", *columns]).encode() + b"\n"
    for time, *row in zip(times, *columns.values(), strict=True):
        yield ",".join([format_time(time), *map(cell, row)]).encode() + b"\n"
