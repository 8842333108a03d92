"""Brings connections from their positions to the live messages, out of the logs and at the pace of their sockets."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import gevent

from pushsvc import sse
from pushsvc.broker.broker import Broker
from pushsvc.broker.keys import Log
from pushsvc.cursor import Position, decode, encode
from pushsvc.errors import BrokerUnavailable, PushError, TooManyRows
from pushsvc.hub import messages as sse_messages
from pushsvc.hub import metrics
from pushsvc.hub.delivery.connection import Connection
from pushsvc.hub.groups.group import Group, ResumeReason
from pushsvc.hub.limits import ResumeLimits
from pushsvc.hub.query import NOTHING_RESELECTED, Reselected
from pushsvc.hub.resume.history import History, HistoryLost
from pushsvc.hub.resume.plan import ResumePlan

log = logging.getLogger(__name__)

_REPORT = 5  # seconds of reading without a selected event after which the client gets the position


class Replays:
    """Replays with work to do, and the few greenlets that do it.

    Replays whose group does not know its logs are parked: while a primary is away, they would keep all readers busy.
    """

    def __init__(
        self, broker: Broker, refresh_topics: Callable[[Sequence[int]], None], limits: ResumeLimits | None = None
    ) -> None:
        self._broker = broker
        self._refresh_topics = refresh_topics
        self._limits = limits or ResumeLimits()
        self._queue: deque[Replay] = deque()
        self._parked: dict[Group, list[Replay]] = {}
        self._readers = 0

    @property
    def idle(self) -> bool:
        """True when no replay waits or is worked on."""
        return not self._readers and not self._parked

    def begin(
        self, group: Group, connection: Connection, client_positions: Mapping[int, Position] | None,
        reason: ResumeReason, reselected: Reselected = NOTHING_RESELECTED,
    ) -> None:  # fmt: skip
        """Bring a connection from the client's positions (None: unreadable) to the live messages."""
        if connection.closed:
            return
        plan = ResumePlan(
            group, self._broker, self._refresh_topics, self._limits.wait, client_positions,
            reason is ResumeReason.EARLIEST, reselected,
        )  # fmt: skip
        replay = Replay(group, connection, plan, reason, self._broker, self._submit, self._limits)
        connection.at = None
        connection.source = replay
        group.channel.add_slow(connection)
        self._submit(replay)

    def _submit(self, replay: Replay) -> None:
        self._queue.append(replay)
        if self._readers < self._limits.readers:
            self._readers += 1
            gevent.spawn(self._work)

    def _work(self) -> None:
        try:
            while self._queue:
                replay = self._queue.popleft()
                connection = replay.connection
                if replay.is_early:
                    self._park(replay)
                    continue
                try:
                    replay.step()
                except TooManyRows as error:
                    connection.end(sse_messages.farewell(error.detail))
                except PushError as error:
                    self._retry(replay, error)
                except Exception:
                    log.exception("resuming a stream of %s failed", connection.channel.name)
                    connection.fail()
                else:
                    if connection.source is replay and connection.rest is None:
                        self._queue.append(replay)
        finally:
            self._readers -= 1

    def _park(self, replay: Replay) -> None:
        parked = self._parked.setdefault(replay.group, [])
        parked.append(replay)
        if len(parked) == 1:
            gevent.spawn(self._unpark, replay.group)

    def _unpark(self, group: Group) -> None:
        """Continue the replays of a group once it is settled. Until then send the reason why nothing comes."""
        while not group.settled.wait(self._limits.wait) and self._parked[group]:
            early = [replay for replay in self._parked[group] if replay.is_early]
            self._parked[group] = [one for one in early if one.connection.push(sse.comment(BrokerUnavailable.title))]
        for replay in self._parked.pop(group):
            self._submit(replay)

    def _retry(self, replay: Replay, error: PushError) -> None:
        """Keep the stream open while Redis is away."""
        connection = replay.connection
        if connection.source is replay and connection.push(sse.comment(error.title)):
            gevent.spawn_later(self._limits.pause, self._submit, replay)


@dataclass(eq=False)
class Replay:
    """The way of one connection to the live messages. It is the source of the connection meanwhile.

    The goal is a chunk of the backlog. The logs are read up to its cursor, and there the connection continues live. If
    the chunk is lost by then, the next goal is chosen. So no message is sent twice and none is left out.
    """

    group: Group
    connection: Connection
    plan: ResumePlan
    reason: ResumeReason
    broker: Broker
    submit: Callable[[Replay], None]
    limits: ResumeLimits

    def __post_init__(self) -> None:
        self._history: History | None = None
        self._reported = self.connection.channel.clock.tick  # when the client last got a position
        self._goal = self.group.channel.backlog.end

    def resume(self, connection: Connection) -> None:
        """Read on: the socket has room again."""
        self.submit(self)

    @property
    def is_early(self) -> bool:
        """True when nothing can be done yet because the group does not know its logs."""
        return self._is_wanted and self._history is None and not self.group.settled.is_set()

    @property
    def _is_wanted(self) -> bool:
        """False when the stream was ended while logs were read."""
        return not self.connection.closed and self.connection.source is self

    def step(self) -> None:
        """Do the next piece: at most one read, and the messages it brings. Raises what the broker raises."""
        if not self._is_wanted:
            return
        if self._history is None:
            self._begin()
        elif not self._read_on(self._history):
            self._join()

    def _begin(self) -> None:
        """Make the plan, choose the goal, and send resets and statistics."""
        group, channel = self.group, self.group.channel
        if not group.settled.wait(self.limits.wait):
            raise BrokerUnavailable("the logs were not read in time")
        if self.plan.outdated:
            self.plan = replace(self.plan)
        plan = self.plan
        if plan.look_up():
            return  # Redis was asked, and the group may have changed meanwhile: look up once more
        lacking = self._lacking(plan)
        if lacking:
            group.check_size(lacking)
        if lacking and group.conflation.prepare(lacking):
            if not self._is_wanted or plan.outdated or plan.look_up():
                return  # the group, or what is known of it, changed meanwhile
            lacking = self._lacking(plan)
        # From here on nothing yields: the messages below are the state at the goal.
        self._goal = channel.seal()
        # A client that resumes from a heartbeat may have more than the chunk had when it was made.
        group.rebase_cursor(self._goal)
        resets = plan.resets()
        if resets:
            group.note_reset()
        messages = [*resets, *chain.from_iterable(self._statistics(plan, lacking))]
        if self.reason is ResumeReason.NEW:
            self.reason = ResumeReason.CURSOR
        self._history = History(self.broker, group.query, plan.positions(), plan.log_positions, self.limits.read_bytes)
        if not plan.log_positions:
            self._join(messages)
        elif messages:
            self._push(messages)

    def _begin_again(self, client_positions: Mapping[int, Position]) -> None:
        # A new plan: a look-up under way must not write into the plan that replaces it.
        self.plan = replace(self.plan, client_positions=client_positions, earliest=False, reselected=NOTHING_RESELECTED)
        self._history = None

    def _lacking(self, plan: ResumePlan) -> dict[Log, int | None]:
        """Return the windows of the group, with the sequence up to which the client has them; None: nothing."""
        group, lost = self.group, plan.lost
        # The position follows the events, and may be ahead of paced statistics.
        is_new = self.reason is ResumeReason.NEW or plan.reselected.statistics
        unknown = is_new or (group.paces_statistics and group.has_events)
        lacking: dict[Log, int | None] = {}
        for of in group.logs:
            if of.window is not None:
                position = plan.position(of.partition)
                full = unknown or of in lost or position is None or position.partial
                lacking[of] = None if full or position is None else position.sequence
        return lacking

    def _statistics(self, plan: ResumePlan, lacking: Mapping[Log, int | None]) -> list[sse.Pieces]:
        """Return the statistics that the client lacks. The last has one id for all, unless events bring it."""
        group, lost = self.group, plan.lost
        skipping = self.reason is ResumeReason.TOO_SLOW
        messages: list[sse.Pieces] = []
        for of, sequence in lacking.items():
            messages += group.conflation.since(of, sequence, skipping=skipping)
        if messages and not group.has_events:
            messages[-1] = sse.id_line(group.cursor()), *messages[-1]
        elif messages and self.reason is ResumeReason.NEW and not lost:
            messages[-1] = sse.id_line(encode(plan.positions(), group.query.digest)), *messages[-1]
        return messages

    def _read_on(self, history: History) -> bool:
        """Send the next events up to the goal; return False once the goal is reached."""
        try:
            messages = history.read(decode(self._goal.cursor))
        except HistoryLost as lost:
            # The next plan finds the lost logs, once the follower has read them too.
            self._begin_again(history.client_positions)
            self.group.followers[lost.partition].doubt(lost.logs)
            gevent.sleep(self.limits.recheck)
            return True
        if messages is None:
            return False
        tick = self.connection.channel.clock.tick
        if not messages and tick - self._reported >= _REPORT:
            messages = [sse_messages.heartbeat(False, history.cursor())]
        if messages:
            self._reported = tick
            metrics.DELIVERIES.inc(len(messages))
            self._push(messages)
        return True

    def _push(self, messages: Sequence[bytes | memoryview]) -> None:
        if self._is_wanted:
            self.connection.push(*messages)

    def _join(self, messages: Sequence[bytes | memoryview] = ()) -> None:
        """Continue live from the goal, after some messages. If the goal is lost, read on to the next one."""
        if not self._is_wanted:
            return
        if self._goal.lost:
            self._begin_again(decode(self._goal.cursor))
            self._push(messages)
            return
        connection = self.connection
        connection.source = connection.channel
        connection.at = self._goal
        if connection.push(*messages):
            connection.source.resume(connection)
