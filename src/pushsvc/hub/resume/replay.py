"""Brings a connection from a position to the live stream, out of the logs and at the pace of its socket."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

import gevent

from pushsvc import sse
from pushsvc.cursor import Position, decode
from pushsvc.errors import BrokerUnavailable, PushError
from pushsvc.hub import metrics
from pushsvc.hub.resume.history import GoneError, History
from pushsvc.hub.resume.plan import Survey

if TYPE_CHECKING:
    from pushsvc.hub.delivery.connection import Connection
    from pushsvc.hub.groups.group import Group

log = logging.getLogger(__name__)

READERS = 8
"""Connections for which logs are read at the same time, at most."""

WAIT = 5.0
"""Seconds for which a reader waits for a group to know its logs, and after which who waits is told why."""

_PAUSE, _LOOK = 1.0, 0.02


class Replays:
    """Replays that have something to do, and the few greenlets that do it. Those whose group does not know its logs
    are ``parked``: as long as a primary is away, they would take the readers from all others."""

    def __init__(self) -> None:
        self._queue: deque[Replay] = deque()
        self._parked: dict[Group, list[Replay]] = {}
        self._readers = 0

    def begin(
        self,
        group: Group,
        connection: Connection,
        have: Mapping[int, Position] | None,
        *,
        earliest: bool = False,
        whole: bool = False,
        slow: bool = False,
    ) -> None:
        """Bring a connection to the live stream from what it has (None: a position that cannot be read).

        ``whole``: it has no statistics yet. One that was too ``slow`` is told how many updates were skipped.
        """
        if connection.closed:
            return
        connection.at = None
        connection.replay = Replay(group, connection, have, earliest=earliest, slow=slow, whole=whole)
        group.slow.add(connection)
        self.submit(connection.replay)

    def submit(self, replay: Replay) -> None:
        self._queue.append(replay)
        if self._readers < READERS:
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
                except PushError as error:
                    self._wait(replay, error)
                except Exception:
                    log.exception("a replay of %s", connection.channel.key)
                    connection.fail()
                else:
                    if connection.replay is replay and connection.rest is None:
                        self._queue.append(replay)
        finally:
            self._readers -= 1

    def _park(self, replay: Replay) -> None:
        waiting = self._parked.setdefault(replay.group, [])
        waiting.append(replay)
        if len(waiting) == 1:
            gevent.spawn(self._unpark, replay.group)

    def _unpark(self, group: Group) -> None:
        """Go on with those who wait for a group once it is settled; meanwhile say why nothing comes."""
        while not group.settled.wait(WAIT) and self._parked[group]:
            alive = [replay for replay in self._parked[group] if replay.is_early]
            self._parked[group] = [one for one in alive if one.connection.push(sse.comment(BrokerUnavailable.title))]
        for replay in self._parked.pop(group):
            self.submit(replay)

    def _wait(self, replay: Replay, error: PushError) -> None:
        """Keep the stream open while Redis is away."""
        connection = replay.connection
        if connection.replay is replay and connection.push(sse.comment(error.title)):
            gevent.spawn_later(_PAUSE, self.submit, replay)


class Replay:
    """One connection's way to the live stream.

    A chunk of the tape is the goal: the logs are read up to its position, and there the connection goes on live. If
    the goal was lost meanwhile the next one is chosen. So nothing is sent twice, and nothing is left out.
    """

    def __init__(
        self,
        group: Group,
        connection: Connection,
        have: Mapping[int, Position] | None,
        *,
        earliest: bool,
        slow: bool,
        whole: bool,
    ) -> None:
        self.group = group
        self.connection = connection
        self._survey = Survey(group, have, earliest=earliest)
        self._history: History | None = None
        self._goal = group.tape.end
        self._slow = slow
        self._whole = whole

    @property
    def is_early(self) -> bool:
        """True when nothing can be done yet, as the group does not know its logs."""
        return self._is_wanted and self._history is None and not self.group.settled.is_set()

    @property
    def _is_wanted(self) -> bool:
        """False when the stream was ended while logs were read."""
        return not self.connection.closed and self.connection.replay is self

    def step(self) -> None:
        """Do the next piece of it: at most one read of a log, and what it brings. Raises what the broker raises."""
        if not self._is_wanted:
            return
        if self._history is None:
            self._begin()
        elif not self._read_on(self._history):
            self._join()

    def _begin(self) -> None:
        """Find the places in the logs; then choose the goal, say what is lost and what the statistics are."""
        group = self.group
        if not group.settled.wait(WAIT):
            raise BrokerUnavailable("the logs were not read in time")
        if self._survey.outdated:
            self._survey = self._survey.again()
        survey = self._survey
        if survey.look_up():
            return  # Redis was asked, and meanwhile the group may have changed: once more
        # From here on nothing yields: what is said is the state at the goal.
        group.seal()
        self._goal = group.tape.end
        # Nothing was said behind it, but the logs went on: who resumes from a heartbeat may have more than it had then.
        self._goal.cursor = group.cursor()
        told = survey.resets() + self._statistics(survey)
        self._whole = False
        self._history = History(group.hub.broker, group.query, survey.positions(), survey.places)
        if not survey.places:
            self._join(told or [sse.move_cursor(group.cursor())])
        elif told:
            self._push(told)

    def _begin_again(self, have: Mapping[int, Position]) -> None:
        self._survey, self._history = Survey(self.group, have, earliest=False), None

    def _statistics(self, survey: Survey) -> list[bytes]:
        """Return the statistics that the client lacks, the last with an id unless events follow."""
        group, lost = self.group, survey.lost
        apart = group.told_apart and group.has_events  # the position may be ahead of what was said of them
        messages = []
        for of in group.logs:
            if of.window is not None:
                position = survey.position(of.partition)
                whole = self._whole or apart or of in lost or position is None
                since = Position(0, 0) if position is None else position
                message = group.changes_since(since, of, whole=whole, slow=self._slow)
                messages += [] if message is None else [message]
        if messages and not group.has_events:
            messages[-1] = sse.with_id(messages[-1], group.cursor())
        return messages

    def _read_on(self, history: History) -> bool:
        """Send the next events up to the goal; return whether there were some to look for."""
        try:
            messages = history.read(decode(self._goal.cursor))
        except GoneError as gone:
            # The next survey finds what is lost, once the follower knows of it, too.
            self._begin_again(history.have)
            self.group.followers[gone.partition].wake()
            gevent.sleep(_LOOK)
            return True
        if messages:
            metrics.DELIVERIES.inc(len(messages))
            self._push(messages)
        return messages is not None

    def _push(self, messages: list[bytes]) -> None:
        if self._is_wanted:
            self.connection.push(b"".join(messages))

    def _join(self, told: list[bytes] | None = None) -> None:
        """Go on live from the goal; if it is lost, from there to the next one."""
        if not self._is_wanted:
            return
        if self._goal.lost:
            self._begin_again(decode(self._goal.cursor))
            if told:
                self._push(told)
            return
        connection = self.connection
        connection.replay = None
        connection.at = self._goal
        if told is None and self.group.has_statistics:
            told = [sse.move_cursor(self._goal.cursor)]
        if not told or connection.push(b"".join(told)):
            self.group.catch_up(connection)
