"""Streams with rankings end with the rows of a ranking that is computed anew, whenever they begin."""

import json
from types import SimpleNamespace

from gevent.event import Event
from hypothesis import given
from hypothesis import strategies as st

from pushsvc.broker.keys import Log
from pushsvc.broker.log import FrameKind
from pushsvc.cursor import Position
from pushsvc.frame import apply_frame
from pushsvc.hub.feed.tail import Tail
from pushsvc.hub.groups.conflate import Conflation
from pushsvc.hub.groups.positions import SentPositions
from pushsvc.hub.groups.rankings import Ranking, Rankings
from pushsvc.hub.query import Query
from pushsvc.hub.window_state import Selection, WindowState
from pushsvc.pause import no_pause
from pushsvc.sse import Decoder
from support.channels import Site
from support.reference.statistics_log import decoded, entries

LOG = Log("topic", "1m")
KEYS = st.sampled_from([None, "a", "b", "c", "d", "e"])
ROWS = st.lists(st.tuples(KEYS, st.sampled_from(["n", "m", None]), st.integers(0, 3)), max_size=4)
FRAMES = st.tuples(st.sampled_from("uuuuubs"), ROWS, st.lists(KEYS.filter(bool), max_size=2))
STEPS = st.lists(st.tuples(FRAMES, st.sampled_from(["nothing", "emit", "emit", "join", "renew", "slow"])), max_size=25)
SELECTIONS = st.builds(
    Selection,
    top=st.integers(1, 4),
    fields=st.sampled_from([None, frozenset({"n", None})]),
    keys=st.sampled_from([None, None, frozenset({None, "a", "b", "c"})]),
)


class Subject:
    """The conflation of a group whose ``log`` is applied by hand. ``paused`` entries come during pauses."""

    def __init__(self, selection, log, paused):
        self.log, self.paused = log, paused
        self.site = Site()
        self.tail = Tail(LOG)
        follower = SimpleNamespace(tails={LOG: self.tail}, position=Position(1, 0))
        sent = SentPositions({LOG.partition: follower})
        room = Event()
        room.set()
        query = Query(statistics=("topic",), selection=selection)
        self.rankings = Rankings(room, 0.0)
        self.conflation = Conflation(query, (LOG,), sent, self.site.channel, self.rankings)
        self.clients = []
        self.site.channel.restart = lambda: False
        self.site.channel.broadcast = self.deliver

    def deliver(self, messages):
        for message in Decoder().feed(b"".join(messages)):
            for rows in self.clients:
                apply_frame(rows, message.event, json.loads(message.data))

    def take(self):
        entry = self.log.pop(0)
        self.tail.window_state.apply(entry)
        self.conflation.note(LOG, entry)

    def pause(self):
        if self.paused and self.log:
            self.paused -= 1
            self.take()

    def work_while_slow(self):
        """No client can take an update now. Later each of them gets a snapshot."""
        if self.conflation.has_pending:
            self.site.channel.restart = lambda: True
            self.conflation.work(no_pause)
            self.site.channel.restart = lambda: False
            for _ in range(len(self.clients)):
                self.join()
                del self.clients[0]

    def join(self):
        rows = {}
        for message in Decoder().feed(b"".join(*self.conflation.state(LOG))):
            apply_frame(rows, message.event, json.loads(message.data))
        self.clients.append(rows)


def expected(state, selection):
    frame = selection.apply(decoded(state.snapshot()))
    rows = {}
    apply_frame(rows, "snapshot", frame)
    return rows


@given(STEPS, SELECTIONS, st.integers(0, 10))
def test_every_client_ends_with_the_ranking(steps, selection, paused):
    subject = Subject(selection, entries([frame for frame, _ in steps]), paused)
    subject.take()
    subject.join()
    for _, step in steps:
        if subject.log:
            subject.take()
        if step == "emit":
            subject.conflation.work(subject.pause)
        elif step == "join":
            subject.join()
        elif step == "renew":  # for another group
            subject.rankings.of(subject.tail.window_state, selection).renew(selection.top, no_pause)
        elif step == "slow":
            subject.work_while_slow()
    while subject.log:
        subject.take()
    for _ in range(3):
        subject.conflation.work(no_pause)
    for rows in subject.clients:
        assert rows == expected(subject.tail.window_state, selection)


@given(STEPS, SELECTIONS)
def test_a_ranking_that_is_kept_up_to_date_has_the_order_of_a_new_one(steps, selection):
    state = WindowState(LOG)
    rankings = Rankings(Event(), 0.0)
    kept = rankings.of(state, selection)
    for entry in entries([frame for frame, _ in steps]):
        state.apply(entry)
        if entry.kind is FrameKind.BASELINE:
            continue
        edition = kept.renew(selection.top, no_pause)
        new = Ranking(state, kept.order).renew(selection.top, no_pause)
        assert edition.keys(10) == new.keys(10)
        message = b"".join(edition.message("snapshot", selection.top))
        rows = json.loads(next(Decoder().feed(message)).data)["data"]
        assert sorted(map(repr, rows)) == sorted(map(repr, selection.apply(decoded(state.snapshot()))["data"]))
        in_order = [row[0] for row in selection.apply(decoded(state.snapshot()))["data"]]
        assert [row[0] for row in rows] == in_order
