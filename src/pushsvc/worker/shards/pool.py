"""A hot topic that several processes count: each part of it has some of the keys.

The owner of the topic's partition reads the log and sends every entry to every part; a part counts its own keys (see
part.py). When a frame is due all parts are asked, behind the same entry, and what they say is merged into the one frame
that readers see. Leases, fencing, frames and checkpoints are the owner's, as those of any topic: a checkpoint holds the
states of all parts at one offset. A part's process keeps nothing that is not in a checkpoint or behind it in the log,
so when one is gone all are begun anew.
"""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from pushsvc.aggregate.cadence import Paces
from pushsvc.aggregate.merge import Merger
from pushsvc.aggregate.row_updates import Topic
from pushsvc.aggregate.statistics_frame import Frame
from pushsvc.settings import TopicSettings
from pushsvc.stats.rows import Rows
from pushsvc.stats.serialize import InvalidState
from pushsvc.worker import metrics
from pushsvc.worker.shards.messages import (
    Answer,
    Begin,
    Count,
    Failed,
    Figures,
    Reader,
    Save,
    Saved,
    Tell,
    Told,
    Unusable,
    encode,
)

log = logging.getLogger(__name__)

PATIENCE = 30.0
"""Seconds after which a part that takes nothing, or says nothing, is given up."""

_BUFFER = 4_000_000
_ONLY = np.zeros(1, np.int64)
"""The number of the only topic."""


class PartLost(Exception):
    """A part's process is gone, or does not answer."""


class PartFailed(Exception):
    """An entry cannot be counted: ``place`` is its topic and last offset."""

    def __init__(self, topic: str, offset: int) -> None:
        super().__init__(f"{topic}: the entry up to offset {offset} cannot be counted")
        self.place = topic, offset


class Process:
    """One part's process. All methods raise PartLost."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
            self._socket.settimeout(PATIENCE)
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "pushsvc", "_part", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
            )
        self._reader = Reader(self._socket, Answer)

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: bytes) -> None:
        try:
            self._socket.sendall(message)
        except OSError as error:
            raise PartLost(f"part {self.number} takes nothing: {error}") from error

    def answer(self) -> Answer:
        try:
            found: Answer = self._reader.read()
        except (EOFError, OSError, msgspec.MsgspecError) as error:
            raise PartLost(f"part {self.number} does not answer: {error or 'it has ended'}") from error
        return found

    def end(self) -> None:
        """End it at once: it keeps nothing."""
        self._socket.close()
        self._process.kill()
        self._process.wait()


class State(msgspec.Struct, array_like=True):
    """A checkpoint: the settings as text, what is known of the topic, and the states of the parts."""

    form: str
    name: str
    since: int
    deleted: int
    offset: int
    figures: Figures
    parts: list[bytes]


class Split:
    """The windows of one topic, counted by several processes; to its owner what an Aggregate is.

    Every method but ``end`` may raise PartLost or PartFailed, and then this is of no use any more. Waiting lets others
    have their turn, who may ``end`` this.
    """

    def __init__(self, settings: TopicSettings, time: int, begin: Callable[[int], Process] | None = None) -> None:
        windows = settings.windows
        self.topics: dict[str, Topic] = {}
        self._settings = settings
        self._begun = time
        self._begin = begin or Process
        self._parts: list[Process] = []
        self._merger = Merger(windows, settings.percents, len(settings.key) > 1)
        self._numbers = {window.name: number for number, window in enumerate(windows)}
        self._paces = Paces(len(windows))
        self._pending = [False] * len(windows)
        self._edges: list[int | None] = [None] * len(windows)
        self._time: int | None = None
        self._spent = 0.0

    # -- topics

    def open(self, name: str, since: int) -> Topic:
        """Begin the one topic, which began at ``since`` (ms)."""
        topic = self._take_up(name, since)
        self._start([None] * self._settings.parts)
        return topic

    def close(self, name: str) -> None:
        """Forget the topic."""
        del self.topics[name]
        self.end()

    def end(self) -> None:
        """End all processes."""
        parts, self._parts = self._parts, []
        for part in parts:
            part.end()

    def watch(self, name: str, window: str, watched: bool) -> None:
        """Choose the cadence of a window by whether somebody watches it."""
        settings = self._settings
        self._paces.set(self._numbers[window], 0, settings.cadence if watched else settings.idle_cadence)

    def _take_up(self, name: str, since: int) -> Topic:
        rows = Rows().add_topic(0, 0)  # they are in the parts
        self.topics[name] = topic = Topic(name, since, rows, dict.fromkeys(self._numbers, 0))
        self._paces.open(0, since, self._settings.idle_cadence)
        return topic

    def _start(self, states: Sequence[bytes | None]) -> None:
        (topic,) = self.topics.values()
        try:
            for number in range(len(states)):  # all at once: each takes a while to come up
                self._parts.append(self._begin(number))
            for number, (part, state) in enumerate(zip(self._parts, states, strict=True)):
                part.send(encode(Begin(self._settings, number, topic.name, topic.since, self._begun, state)))
            self._note(self._answers(), [])
        except BaseException:
            self.end()
            raise

    # -- state

    def save(self) -> list[bytes]:
        """Return the state, in parts of any size."""
        (topic,) = self.topics.values()
        self._send(Save())
        states = []
        for answer in self._answers():
            if not isinstance(answer, Saved):
                raise PartLost(f"{answer!r} is no answer")
            states.append(answer.state)
            self._spent += answer.spent
        state = State(
            repr(self._settings), topic.name, topic.since, topic.deleted, topic.offset, Figures.of(topic), states
        )
        return [msgspec.msgpack.encode(state)]

    @classmethod
    def restore(cls, settings: TopicSettings, data: bytes, begin: Callable[[int], Process] | None = None) -> Split:
        """Return what was saved with equal settings; raise InvalidState if it cannot be had."""
        try:
            state = msgspec.msgpack.decode(data, type=State)
        except msgspec.MsgspecError as error:
            raise InvalidState(f"not a state: {error}") from None
        if state.form != repr(settings) or len(state.parts) != settings.parts:
            raise InvalidState("a state of other settings")
        restored = cls(settings, 0, begin)
        topic = restored._take_up(state.name, state.since)
        topic.deleted, topic.offset = state.deleted, state.offset
        state.figures.set_on(topic)  # what parts say next is counted by what it adds to these
        restored._start(state.parts)
        return restored

    def take_spent(self) -> float:
        """Return the CPU seconds that the parts have spent since this was last asked, as far as they have told."""
        spent, self._spent = self._spent, 0.0
        return spent

    # -- in

    def apply(self, name: str, offset: int, arrival: int, data: bytes, *, told: bool) -> None:
        """Count an entry, as it is in the log. ``told``: its late events were told of before."""
        self.topics[name].offset = offset
        self._send(Count(offset, arrival, told, data))
        self._pending = [True] * len(self._pending)

    def advance(self, now: int) -> None:
        """Tell that every entry up to ``now`` (ms) is applied."""
        if self._settings.clock == "wall":
            self._time = now

    # -- out

    def wake_at(self) -> int | None:
        """Return the ms at which ``advance`` and ``due`` may have something to say; None: not before an ``apply``."""
        times = []
        for window, (pending, edge) in enumerate(zip(self._pending, self._edges, strict=True)):
            if pending or edge is not None:
                times.append(max(self._ready_at(window), 0 if pending or edge is None else edge))
        return min(times, default=None)

    def due(self, now: int) -> list[Frame]:
        """Return the updates of the windows that changed and whose cadence allows it."""
        windows = [window for window in range(len(self._pending)) if self._is_due(window, now)]
        return self._frames(windows, now, whole=False) if windows else []

    def snapshot(self, name: str, window: str) -> Frame:
        """Return all rows of a window."""
        (frame,) = self._frames([self._numbers[window]], None, whole=True)
        return frame

    def _is_due(self, window: int, now: int) -> bool:
        edge = self._edges[window]
        passed = edge is not None and self._time is not None and edge <= self._time
        return (self._pending[window] or passed) and self._ready_at(window) <= now

    def _ready_at(self, window: int) -> int:
        return int(self._paces.ready_at(window, _ONLY)[0])

    def _frames(self, windows: list[int], now: int | None, *, whole: bool) -> list[Frame]:
        (topic,) = self.topics.values()
        self._send(Tell(self._time, whole, windows))
        answers = self._note(self._answers(), windows)
        frames = []
        for place, window in enumerate(windows):
            shares = [answer.shares[place] for answer in answers]
            merged = self._merger.merge(window, shares, whole=whole)
            if merged is None:
                continue
            if now is not None:
                size = sum(map(len, merged.parts))
                self._paces.spend(window, _ONLY, now, np.array([size]))
            frames.append(
                Frame(
                    topic=topic.name,
                    window=self._settings.windows[window].name,
                    kind="snapshot" if whole else "update",
                    start=shares[0].start,
                    end=shares[0].end,
                    offset=topic.offset,
                    since=topic.since,
                    cadence=int(self._paces.intervals(window, _ONLY)[0]),
                    columns=self._settings.columns,
                    ending=merged.ending,
                    parts=merged.parts,
                )
            )
        return frames

    # -- parts

    def _send(self, question: Count | Tell | Save) -> None:
        message = encode(question)
        for part in self._parts:
            part.send(message)

    def _answers(self) -> list[Answer]:
        """Return what the parts say, each behind the last entry that was sent."""
        (topic,) = self.topics.values()
        answers = [part.answer() for part in self._parts]
        for answer in answers:
            if isinstance(answer, Failed):
                raise PartFailed(topic.name, answer.offset)
            if isinstance(answer, Unusable):
                raise InvalidState(answer.detail)
        if len(answers) != self._settings.parts:
            raise PartLost("they were ended")
        return answers

    def _note(self, answers: Sequence[Answer], windows: Sequence[int]) -> list[Told]:
        """Take what parts say beside their shares; they must be at one offset and their windows in one place."""
        (topic,) = self.topics.values()
        told = [answer for answer in answers if isinstance(answer, Told)]
        places = {(one.offset, *((share.start, share.end) for share in one.shares)) for one in told}
        if len(told) != len(answers) or len(places) > 1:
            raise PartLost(f"the parts are not at one place: {places}")
        with metrics.added(topic):
            first = told[0].figures
            topic.late, topic.late_by_window = first.late, first.late_by_window
            topic.told_late = max(topic.told_late, first.told_late)
            topic.ahead, topic.ignored = first.ahead, first.ignored
            topic.folded = sum(one.figures.folded for one in told)
        metrics.UNCOUNTABLE.inc(told[0].unreadable)
        self._spent += sum(one.spent for one in told)
        agendas = list(zip(*(one.agenda for one in told), strict=True))
        self._pending = [any(pending for pending, _ in agenda) for agenda in agendas]
        self._edges = [_least([edge for _, edge in agenda]) for agenda in agendas]
        return told


def _least(edges: Sequence[int | None]) -> int | None:
    return min((edge for edge in edges if edge is not None), default=None)
