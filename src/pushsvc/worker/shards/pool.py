"""An engine of several processes for one hot topic: each counts a shard of the keys.

The owner of the topic's partition sends every log entry to every shard, and a shard counts its own keys. When a frame
is due, all shards report after the same entry, and their reports are merged into one frame. Leases, fencing, frames and
checkpoints are the owner's, as for any topic: a checkpoint has the states of all shards at one offset. The state of a
shard can be rebuilt from a checkpoint and the log, so when one is lost all are restarted.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np

from pushsvc.aggregate.aggregate import NONE_FRESH, FreshWindows
from pushsvc.aggregate.cadence import BYTES_PER_SECOND, Cadence
from pushsvc.aggregate.lifetime_record import NoRoom
from pushsvc.aggregate.merge import Merger
from pushsvc.aggregate.reading import RowsWanted
from pushsvc.aggregate.row_updates import TopicCounts
from pushsvc.aggregate.shard_reading import MergedReading
from pushsvc.aggregate.statistics_frame import Frame
from pushsvc.broker.log import EventsEntry
from pushsvc.settings import TopicSettings
from pushsvc.stats.cells import UNBOUNDED
from pushsvc.stats.rows import Rows
from pushsvc.stats.serialize import InvalidState
from pushsvc.worker import metrics
from pushsvc.worker.engine import EntryFailed, ShardLost
from pushsvc.worker.shards import messages

_VERSION = 2
_SEND_BUFFER = 4_000_000
_ONLY = np.zeros(1, np.int64)  # the number of the only topic


class ShardHandle:
    """Starts the process of shard ``number``; gives it up if it takes or answers nothing for ``timeout`` seconds.

    The constructor, ``send`` and ``receive`` raise ShardLost.
    """

    def __init__(self, number: int, timeout: float) -> None:
        self.number = number
        try:
            self._socket, theirs = socket.socketpair()
            with theirs:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
                command = [sys.executable, "-P", "-m", "pushsvc", "_shard", str(theirs.fileno())]
                self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
            self.set_timeout(timeout)
        except OSError as error:
            raise ShardLost(f"shard {number} cannot be started: {error}") from error
        self._reader = messages.MessageReader(self._socket, messages.Response)

    def set_timeout(self, seconds: float) -> None:
        self._socket.settimeout(seconds)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def send(self, message: bytes) -> None:
        try:
            self._socket.sendall(message)
        except OSError as error:
            raise ShardLost(f"shard {self.number} accepts no data: {error}") from error

    def receive(self) -> messages.Response:
        try:
            answer: messages.Response = self._reader.read()
        except (EOFError, OSError, msgspec.MsgspecError) as error:
            raise ShardLost(f"shard {self.number} does not answer: {error or 'it has ended'}") from error
        return answer

    def end(self) -> None:
        """Kill the process; what it holds is in a checkpoint or in the log."""
        self._socket.close()
        self._process.kill()
        self._process.wait()


StartShard = Callable[[int], ShardHandle]


class PoolState(msgspec.Struct, array_like=True):
    """A checkpoint: the settings as text, the topic's metadata, and the states of the shards."""

    version: int
    form: str
    name: str
    since: int
    deleted: int
    offset: int
    counts: messages.ShardCounts
    shards: list[bytes]


class ShardPool:
    """The windows of one topic, counted by several processes: a TopicEngine.

    ``start(number)`` starts a shard. Together they hold at most ``cells``.
    """

    def __init__(
        self, settings: TopicSettings, time: int, start: StartShard, *, bytes_per_second: int = BYTES_PER_SECOND,
        cells: int = UNBOUNDED,
    ) -> None:  # fmt: skip
        windows = settings.windows
        self._cells = cells
        self.topics: dict[str, TopicCounts] = {}
        self._settings = settings
        self._first_time = time
        self._start_shard = start
        self.shards: list[ShardHandle] = []
        self._merger = Merger(windows, settings.percents, len(settings.key) > 1)
        self._numbers = {window.name: number for number, window in enumerate(windows)}
        self._cadence = Cadence(len(windows), bytes_per_second)
        self._pending = [False] * len(windows)
        self._next_changes: list[int | None] = [None] * len(windows)
        self._time: int | None = None
        self._asked_at = 0
        self._spent = 0.0

    # -- topics

    def open(self, name: str, since: int) -> TopicCounts:
        """Open the only topic, which was created at ``since`` (ms)."""
        counts = self._add_topic(name, since)
        self._start([None] * self._settings.parts)
        return counts

    def close(self, name: str) -> None:
        del self.topics[name]
        self.end()

    def end(self) -> None:
        shards, self.shards = self.shards, []
        for shard in shards:
            shard.end()

    def watch(self, name: str, window: str, watched: bool) -> None:
        settings = self._settings
        self._cadence.set(self._numbers[window], 0, settings.cadence if watched else settings.idle_cadence)

    def suspend(self, name: str, window: str) -> None:
        self._cadence.suspend(self._numbers[window], 0)
        self._send(messages.SetDemand(window, wanted=False))

    def resume(self, name: str, window: str) -> None:
        self._cadence.resume(self._numbers[window], 0)
        self._pending[self._numbers[window]] = True
        self._send(messages.SetDemand(window, wanted=True))

    def _add_topic(self, name: str, since: int) -> TopicCounts:
        rows = Rows().add_topic(0, 0)  # the rows are in the shards
        self.topics[name] = counts = TopicCounts(name, since, rows, dict.fromkeys(self._numbers, 0))
        self._cadence.open(0, since, self._settings.idle_cadence)
        return counts

    def _start(self, states: Sequence[bytes | None]) -> None:
        (counts,) = self.topics.values()
        try:
            for number in range(len(states)):  # all at once: each takes a while to start
                self.shards.append(self._start_shard(number))
            for number, (shard, state) in enumerate(zip(self.shards, states, strict=True)):
                opening = messages.OpenShard(self._settings, number, counts.name, counts.since, self._first_time, state)
                opening.cells = max(1, self._cells // self._settings.parts)
                shard.send(messages.encode(opening))
            self._note(self._answers(), [])
        except BaseException:
            self.end()
            raise

    # -- state

    def save(self) -> list[bytes]:
        (counts,) = self.topics.values()
        states = [answer.state for answer in self._states()]
        state = PoolState(
            _VERSION, repr(self._settings), counts.name, counts.since, counts.deleted, counts.offset,
            messages.ShardCounts.of(counts), states,
        )  # fmt: skip
        return [msgspec.msgpack.encode(state)]

    def _states(self) -> list[messages.State]:
        """Return the states of all shards."""
        self._send(messages.GetState())
        answers = self._answers()
        states = [answer for answer in answers if isinstance(answer, messages.State)]
        if len(states) != len(answers):
            raise ShardLost("a shard does not answer GetState")
        self._spent += sum(state.spent for state in states)
        return states

    @classmethod
    def restore(cls, settings: TopicSettings, data: bytes, start: StartShard, cells: int = UNBOUNDED) -> ShardPool:
        """Return the pool that was saved with equal settings; raise InvalidState, ShardLost."""
        try:
            state = msgspec.msgpack.decode(data, type=PoolState)
        except msgspec.MsgspecError as error:
            raise InvalidState(f"not a state: {error}") from None
        if (state.version, state.form, len(state.shards)) != (_VERSION, repr(settings), settings.parts):
            raise InvalidState("a state of another version or other settings")
        restored = cls(settings, 0, start, cells=cells)
        counts = restored._add_topic(state.name, state.since)
        counts.deleted, counts.offset = state.deleted, state.offset
        state.counts.set_on(counts)  # metrics count what later reports add to these
        restored._start(state.shards)
        return restored

    def take_spent(self) -> float:
        spent, self._spent = self._spent, 0.0
        return spent

    # -- in

    def reach(self, arrival: int) -> int:
        return arrival  # the clocks are in the shards, which take entries one by one

    def apply_entries(self, name: str, entries: Sequence[EventsEntry], *, reported: bool) -> int:
        applied = 0
        for entry in entries:
            self.topics[name].offset = entry.last
            self._send(messages.ApplyEntry(entry.last, entry.arrival, reported, entry.data))
            applied += entry.left
        self._pending = [True] * len(self._pending)
        return applied

    def send_form(self, offset: int, arrival: int, form: bytes, *, subtract: bool) -> None:
        """Take an event out of the window ``all``, or add it, for a correction with an offset."""
        self._send(messages.ApplyEntry(offset, arrival, True, form, -1 if subtract else 1))
        self._pending = [True] * len(self._pending)

    def advance(self, now: int) -> None:
        if self._settings.clock == "wall":
            self._time = now

    # -- out

    def wake_at(self) -> int | None:
        times = []
        for window, (pending, change) in enumerate(zip(self._pending, self._next_changes, strict=True)):
            if pending or change is not None:
                times.append(max(self._ready_at(window), 0 if pending or change is None else change))
        return min(times, default=None)

    def due(self, now: int, fresh: FreshWindows = NONE_FRESH) -> list[Frame]:
        (name,) = self.topics
        if now < self._asked_at:
            self._cadence.set_back(now)
        self._asked_at = now
        due = [window for window in range(len(self._pending)) if self._is_due(window, now)]
        full = [window for window in due if self._settings.windows[window].name in fresh.get(name, ())]
        rest = [window for window in due if window not in full]
        frames = self._frames(full, None, full=True) if full else []
        return frames + self._frames(rest, now, full=False) if rest else frames

    def snapshot(self, name: str, window: str) -> Frame:
        (frame,) = self._frames([self._numbers[window]], None, full=True)
        return frame

    def read_rows(self, name: str, wanted: RowsWanted) -> MergedReading:
        self._send(messages.GetRows(self._time, wanted))
        answers = self._answers()
        found = [answer for answer in answers if isinstance(answer, messages.RowsRead)]
        if len(found) != len(answers):
            raise ShardLost("a shard does not answer GetRows")
        self._spent += sum(answer.spent for answer in found)
        return MergedReading(self._settings, wanted, [answer.rows for answer in found])

    def _is_due(self, window: int, now: int) -> bool:
        change = self._next_changes[window]
        passed = change is not None and self._time is not None and change <= self._time
        return (self._pending[window] or passed) and self._ready_at(window) <= now

    def _ready_at(self, window: int) -> int:
        return int(self._cadence.ready_at(window, _ONLY)[0])

    def _frames(self, windows: list[int], now: int | None, *, full: bool) -> list[Frame]:
        (counts,) = self.topics.values()
        self._send(messages.GetReports(self._time, full, windows))
        answers = self._note(self._answers(), windows)
        frames = []
        for place, window in enumerate(windows):
            reports = [answer.reports[place] for answer in answers]
            merged = self._merger.merge(window, reports, full=full)
            if merged is None:
                continue
            parts, ending = merged
            if now is not None:
                self._cadence.spend(window, _ONLY, now, np.array([sum(map(len, parts))]))
            frame = Frame(
                topic=counts.name, window=self._settings.windows[window].name,
                kind="snapshot" if full else "update", start=reports[0].start or None, end=reports[0].end or None,
                offset=counts.offset, since=counts.since, cadence=int(self._cadence.intervals(window, _ONLY)[0]),
                columns=self._settings.columns, ending=ending, parts=parts, notes=self._notes(),
            )  # fmt: skip
            frames.append(frame)
        return frames

    def _notes(self) -> Mapping[str, object]:
        """Return further members of frames."""
        return {}

    # -- shards

    def _send(self, request: messages.Request) -> None:
        message = messages.encode(request)
        for shard in self.shards:
            shard.send(message)

    def _answers(self) -> list[messages.Response]:
        """Return the answers of all shards, each after the last entry that was sent."""
        (counts,) = self.topics.values()
        answers = [shard.receive() for shard in self.shards]
        for answer in answers:
            if isinstance(answer, messages.ApplyFailed):
                raise EntryFailed(counts.name, answer.offset)
            if isinstance(answer, messages.StateRejected) and answer.no_room:
                raise NoRoom(answer.detail)
            if isinstance(answer, messages.StateRejected):
                raise InvalidState(answer.detail)
        if len(answers) != self._settings.parts:
            raise ShardLost("the shards were stopped")
        return answers

    def _note(self, answers: Sequence[messages.Response], windows: Sequence[int]) -> list[messages.Reports]:
        """Take over the metadata of reports; they must agree on the offset and on the extents of windows."""
        (counts,) = self.topics.values()
        reports = [answer for answer in answers if isinstance(answer, messages.Reports)]
        places = {(one.offset, *((report.start, report.end) for report in one.reports)) for one in reports}
        if len(reports) != len(answers) or len(places) > 1:
            raise ShardLost(f"the shards do not agree on offset and windows: {places}")
        with metrics.added(counts):
            first = reports[0].counts
            counts.late, counts.late_by_window = first.late, first.late_by_window
            counts.reported_late = max(counts.reported_late, first.reported_late)
            counts.ahead, counts.ignored = first.ahead, first.ignored
            counts.folded = sum(one.counts.folded for one in reports)
        metrics.UNCOUNTABLE.inc(reports[0].unreadable)
        self._spent += sum(one.spent for one in reports)
        schedules = list(zip(*(one.schedule for one in reports), strict=True))
        self._pending = [any(pending for pending, _ in schedule) for schedule in schedules]
        self._next_changes = [
            min((change for _, change in schedule if change is not None), default=None) for schedule in schedules
        ]
        return reports
