"""What the first stream of a large window costs a hub: slices, and no other stream waits for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import gevent
import orjson
import pytest

from pushsvc.broker.broker import Broker, StatisticsWrite
from pushsvc.broker.keys import Log
from pushsvc.broker.log import FrameKind
from pushsvc.cursor import Position, encode
from pushsvc.errors import TooManyLogsFollowed, TooManyRows
from pushsvc.event import Event
from pushsvc.frame import apply_frame
from pushsvc.frame_text import ROWS_A_SLICE
from pushsvc.hub.groups import conflate, rankings, tables
from pushsvc.hub.groups.group import Group
from pushsvc.hub.groups.tables import BLOCK, LARGE_ROWS
from pushsvc.hub.hub import Hub
from pushsvc.hub.limits import FanoutLimits, FeedLimits
from pushsvc.hub.query import Query
from pushsvc.hub.streams import CombinedStream, QueryStream, Subscription
from pushsvc.hub.window_state import Selection, WindowState
from pushsvc.settings import TopicSettings
from pushsvc.sse import Decoder
from pushsvc.topic import partition_of
from support.hubs import captured
from support.peer import Peer
from support.turns import counted_turns
from support.waiting import turn_until

WINDOW = Log("large", "1m")
BESIDE = next(name for n in count() if partition_of(name := f"beside.{n}") == WINDOW.partition)
COLUMNS = ["key", "field", "count"]
ROWS = 3 * LARGE_ROWS
Write = Callable[..., None]


@pytest.fixture
def hub(broker: Broker) -> Iterator[Hub]:
    """A hub without notifications, whose slices end after each step."""
    broker.check_layout()
    broker.open_partitions()
    limits = FeedLimits(slice=0.0, large_frames=10_000, wait=0.1, read_anyway=0.1, current_wait=0.1)
    made = Hub(broker, feed_limits=limits, fanout_limits=FanoutLimits(slice=0.0))
    yield made
    made.close()
    while Peer.opened:
        Peer.opened.pop().close()


@pytest.fixture
def write(hub: Hub, broker: Broker) -> Write:
    """Write a frame of the window, as an aggregator does."""
    broker.publish(WINDOW.topic, [Event(data={})], TopicSettings())
    fence = broker.lease([WINDOW.partition], "me", 60_000)[WINDOW.partition]

    def append(kind: FrameKind, rows: list[list[Any]], offset: int = 1) -> None:
        head = {"topic": WINDOW.topic, "window": WINDOW.window, "offset": offset, "columns": COLUMNS}
        frame = orjson.dumps({**head, "data": rows, "gone": []})
        broker.append_statistics([StatisticsWrite(WINDOW, kind, offset, frame)], fence)

    append(FrameKind.SNAPSHOT, [[f"k{number}", None, 1] for number in range(ROWS)])
    return append


@pytest.fixture
def narrow_hub(hub: Hub) -> Hub:
    """A hub with room for the window, and not for twice its rows."""
    hub.feed.tally.most = 400 * ROWS
    return hub


def limit_snapshots(hub: Hub, most: int) -> None:
    hub.feed.limits = replace(hub.feed.limits, snapshot=most)


def group_of(hub: Hub, **selection: Any) -> Group:
    group = hub.group(Query(statistics=(WINDOW.topic,), windows=("1m",), selection=Selection(**selection)))
    hub.feed.live.up.set()
    return group


def state_of(group: Group) -> WindowState:
    state = group.tail(WINDOW).window_state
    assert state is not None
    return state


def rows_of(data: bytes) -> dict[tuple[str | None, ...], Any]:
    rows: dict[tuple[str | None, ...], Any] = {}
    for message in Decoder().feed(data):
        apply_frame(rows, message.event, orjson.loads(message.data))
    return rows


def test_a_large_window_is_taken_over_in_slices(hub: Hub, write: Write) -> None:
    """It was parsed and taken over in one turn of the loop."""
    group = group_of(hub)
    with counted_turns() as turns:
        turn_until(group.settled.is_set)
    assert state_of(group).size == ROWS
    assert hub.feed.loader.slices >= ROWS // ROWS_A_SLICE
    assert turns[0] >= ROWS // ROWS_A_SLICE


def test_other_logs_of_the_partition_do_not_wait(hub: Hub, write: Write, broker: Broker) -> None:
    """An event beside the window is sent while the window is still taken over, slowly as the loop is busy."""
    other = hub.group(Query(events=(BESIDE,)))
    turn_until(other.settled.is_set)
    sent = captured(other)
    group = group_of(hub)
    turn_until(lambda: group.tail(WINDOW).loading)
    broker.publish(BESIDE, [Event(data={"n": 1})], TopicSettings())
    other.followers[WINDOW.partition].wake()
    while not sent:
        assert not group.settled.is_set()
        gevent.sleep(0.0001)
    turn_until(group.settled.is_set)
    assert state_of(group).size == ROWS


def test_frames_that_come_meanwhile_are_applied_after_it(hub: Hub, write: Write) -> None:
    group = group_of(hub)
    turn_until(lambda: group.tail(WINDOW).loading)
    for number in range(3):
        write(FrameKind.UPDATE, [["k0", None, 10 + number]], 2 + number)
        group.followers[WINDOW.partition].wake()
    turn_until(group.settled.is_set)
    turn_until(lambda: state_of(group).offset == 4)
    assert state_of(group).rows_of("k0") == [["k0", None, 12]]
    assert state_of(group).size == ROWS


def test_a_window_that_starts_over_meanwhile_is_read_again(hub: Hub, write: Write) -> None:
    group = group_of(hub)
    turn_until(lambda: group.tail(WINDOW).loading)
    before = state_of(group)
    group.tail(WINDOW).rewind()
    group.followers[WINDOW.partition].doubt([WINDOW])
    turn_until(group.settled.is_set)
    assert state_of(group) is not before
    assert state_of(group).size == ROWS


def test_windows_are_taken_over_one_after_the_other(hub: Hub, write: Write, broker: Broker) -> None:
    """What waits for its turn is not kept in memory, but read again."""
    second = Log("large.2", "1m")
    broker.publish(second.topic, [Event(data={})], TopicSettings())
    fence = broker.lease([second.partition], "me", 60_000)[second.partition]
    frame = {"topic": second.topic, "window": "1m", "offset": 1, "columns": COLUMNS}
    data = orjson.dumps({**frame, "data": [[f"k{number}", None, 1] for number in range(ROWS)], "gone": []})
    broker.append_statistics([StatisticsWrite(second, FrameKind.SNAPSHOT, 1, data)], fence)
    group = hub.group(Query(statistics=(WINDOW.topic, second.topic), windows=("1m",)))
    turn_until(group.settled.is_set)
    assert [group.tail(of).window_state.size for of in (WINDOW, second)] == [ROWS, ROWS]


def settled(hub: Hub, **selection: Any) -> Group:
    group = group_of(hub, **selection)
    turn_until(group.settled.is_set)
    return group


@pytest.mark.parametrize("selection", [{}, {"records": True}, {"fields": frozenset([None])}], ids=str)
def test_rows_of_a_stream_without_a_ranking_are_encoded_in_slices(hub: Hub, write: Write, selection: Any) -> None:
    """They were encoded in one turn of the loop for every stream that opened in a second of its own."""
    group = settled(hub, **selection)
    with counted_turns() as turns:
        group.prepare()
    assert turns[0] >= ROWS // BLOCK
    table = hub.rankings.table(state_of(group), Selection(**selection))
    assert table.encoded == ROWS
    assert group.conflation.initial_state().count(b'"k') + group.conflation.initial_state().count(b'"key":"k') >= ROWS
    write(FrameKind.UPDATE, [["k7", None, 9]], 2)
    group.followers[WINDOW.partition].wake()
    turn_until(lambda: state_of(group).offset == 2)
    assert group.conflation.initial_state().count(b"event: update") == 1
    assert table.encoded == ROWS, "an edition serves until too many rows differ"


def test_a_snapshot_and_the_changes_since_are_the_window(hub: Hub, write: Write) -> None:
    group = settled(hub)
    group.prepare()
    write(FrameKind.UPDATE, [["k7", None, 9], ["new", None, 1]], 2)
    group.followers[WINDOW.partition].wake()
    turn_until(lambda: state_of(group).offset == 2)
    messages = captured(group)
    group.conflation.broadcast_states([WINDOW])
    assert [b"id: " in message for message in messages] == [False, True]
    rows = rows_of(b"".join(messages))
    assert len(rows) == ROWS + 1
    assert rows["k7", None][2] == 9


def test_a_window_that_starts_over_is_sent_once_its_rows_are_encoded(hub: Hub, write: Write) -> None:
    group = settled(hub)
    sent = captured(group)
    before = group.generation
    group.followers[WINDOW.partition].on_failed()
    with counted_turns() as turns:
        turn_until(lambda: group.generation > before and group.settled.is_set())
    assert turns[0] >= ROWS // ROWS_A_SLICE + ROWS // BLOCK
    assert len(rows_of(b"".join(sent))) == ROWS


def test_a_group_that_ends_while_its_window_is_prepared_causes_no_error(
    hub: Hub, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    group, other = settled(hub), settled(hub, fields=frozenset([None]))
    before = group.generation
    group.followers[WINDOW.partition].on_failed()
    turn_until(lambda: group.generation > before and not group.tail(WINDOW).catching_up)
    turn_until(lambda: hub.rankings.table(state_of(group), Selection()).busy)
    assert not group.settled.is_set()
    group.close()
    called: list[bool] = []
    other.conflation.prepare_soon(lambda: called.append(True))
    turn_until(lambda: bool(called))
    assert [record.message for record in caplog.records if record.exc_info] == []


def test_a_client_that_lacks_little_needs_no_snapshot(hub: Hub, write: Write) -> None:
    group = settled(hub)
    cursor = group.cursor()
    write(FrameKind.UPDATE, [["k7", None, 9]], 2)
    group.followers[WINDOW.partition].wake()
    turn_until(lambda: state_of(group).offset == 2)
    group.prepare(cursor)
    assert hub.rankings.table(state_of(group), Selection()).encoded == 0
    changes = group.changes_for(cursor)
    assert changes is not None
    assert b"event: snapshot" not in changes


@pytest.mark.parametrize("ranked", [True, False], ids=["rankings", "tables"])
def test_large_first_messages_are_made_in_turns_of_their_own(hub: Hub, write: Write, ranked: bool) -> None:
    """30 streams that opened together got 10 MB each in one turn of the loop."""
    groups = [
        settled(hub, **({"top": ROWS - number} if ranked else {"fields": frozenset([None, f"f{number}"])}))
        for number in range(5)
    ]
    assert len(turns_of_first_messages(groups)) == len(groups)


@pytest.mark.parametrize("selection", [{"top": ROWS}, {}], ids=["ranking", "table"])
def test_a_window_that_changes_before_its_stream_starts_is_prepared_again(
    hub: Hub, write: Write, monkeypatch: pytest.MonkeyPatch, selection: Any
) -> None:
    """30 streams of 90,000 rows opened together. While one of them waited for its turn, the window changed. Its first
    message was then ranked in one step of 0.12 s."""
    in_one_step = []
    for module in (conflate, rankings, tables):
        monkeypatch.setattr(module, "no_pause", lambda: in_one_step.append(True))
    monkeypatch.setattr(hub, "start", lambda: None)  # no notifications are wanted here
    group = settled(hub, **selection)
    group.prepare()
    write(FrameKind.SNAPSHOT, [[f"k{number}", None, 2] for number in range(ROWS)], 2)
    group.followers[WINDOW.partition].wake()
    turn_until(lambda: state_of(group).offset == 2 and not group.conflation.has_pending)
    peer = Peer(group.channel, hub=hub)
    QueryStream(hub, group.query).start(peer.connection)
    turn_until(lambda: len(rows_of(peer.read(1 << 20))) == ROWS)
    assert rows_of(peer.got)["k7", None][2] == 2
    assert not in_one_step


def test_first_messages_of_many_windows_are_made_in_turns_of_their_own(hub: Hub) -> None:
    """A dozen of streams that named 310 topics, and settled together, got theirs in one turn of 0.15 s."""
    groups = []
    for number in range(3):
        topics = tuple(f"many.{number}.{topic}" for topic in range(60))
        groups.append(hub.group(Query(statistics=topics, windows=("1m",))))
        hub.feed.live.up.set()
        gevent.spawn(groups[-1].wait_settled)
    turn_until(lambda: all(group.settled.is_set() for group in groups))
    assert len(turns_of_first_messages(groups)) == len(groups)


def turns_of_first_messages(groups: list[Group]) -> set[int]:
    """Let a stream of each group begin; return the turns in which their first messages were made."""
    for group in groups:
        group.prepare()  # everything is encoded, so nothing else yields
    made = set()
    with counted_turns() as turns:

        def begin(group: Group) -> None:
            group.conflation.forget()
            group.prepare()
            assert group.conflation.initial_state()
            made.add(turns[0])

        gevent.joinall([gevent.spawn(begin, group) for group in groups], raise_error=True)
    return made


def change_all(write: Write, group: Group) -> None:
    """Let all rows of a followed window change, and wait until it has them."""
    write(FrameKind.UPDATE, [[f"k{number}", None, 2] for number in range(ROWS)], 2)
    group.followers[WINDOW.partition].wake()
    turn_until(lambda: state_of(group).offset == 2)


def test_all_rows_of_a_window_change_in_slices(hub: Hub, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step put all rows into the window, and one made each message with a part of them: 0.1 to 0.2 s each."""
    put = sizes_of(monkeypatch, WindowState, "_put_rows", len)
    selected = sizes_of(monkeypatch, Selection, "apply", lambda frame: len(frame["data"]))
    groups = [settled(hub), settled(hub, records=True), settled(hub, keys=frozenset(["k1", "k2"]))]
    sent = [captured(group) for group in groups]
    put.clear()
    selected.clear()
    change_all(write, groups[0])
    turn_until(lambda: all(sent))
    assert sum(put) == ROWS
    assert sum(selected) == 2 * ROWS
    assert max(*put, *selected) <= 250
    assert state_of(groups[0]).rows_of("k7") == [["k7", None, 2]]
    assert [b"".join(messages).count(b"id: ") for messages in sent] == [1, 1, 1]
    assert len(rows_of(b"".join(sent[0]))) == ROWS
    records = orjson.loads(next(iter(Decoder().feed(b"".join(sent[1])))).data)
    assert records["data"][7] == {"key": "k7", "field": None, "count": 2}
    assert rows_of(b"".join(sent[2])) == {("k1", None): ["k1", None, 2], ("k2", None): ["k2", None, 2]}


def sizes_of(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, size: Callable[[Any], int]) -> list[int]:
    """Return a list that gets the size of what a method is called with."""
    sizes: list[int] = []
    call = getattr(owner, name)

    def counted(self: Any, argument: Any, *more: Any) -> Any:
        sizes.append(size(argument))
        return call(self, argument, *more)

    monkeypatch.setattr(owner, name, counted)
    return sizes


def test_others_see_a_window_before_or_after_an_entry(hub: Hub, write: Write) -> None:
    """Its offset says which events its rows have, also while a large entry is put into it in slices."""
    group = settled(hub)
    seen: dict[tuple[int, int], int] = {}

    def look() -> None:
        state = state_of(group)
        while state.offset < 2:
            last, first = state.rows_of(f"k{ROWS - 1}")[0][2], state.rows_of("k0")[0][2]
            assert first == last
            seen[state.offset, first] = seen.get((state.offset, first), 0) + 1
            gevent.get_hub().wait(gevent.get_hub().loop.timer(0))

    looking = gevent.spawn(look)
    change_all(write, group)
    looking.get()
    assert set(seen) == {(1, 1)}
    assert seen[1, 1] >= ROWS // 250
    assert state_of(group).rows_of("k0")[0][2] == 2


def test_a_large_entry_behind_others_is_staged_as_well(hub: Hub, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    group = settled(hub)
    put = sizes_of(monkeypatch, WindowState, "_put_rows", len)
    write(FrameKind.UPDATE, [["k7", None, 9]], 2)
    write(FrameKind.UPDATE, [[f"k{number}", None, 3] for number in range(ROWS)], 3)
    write(FrameKind.UPDATE, [["k8", None, 4]], 4)
    group.followers[WINDOW.partition].wake()
    turn_until(lambda: state_of(group).offset == 4)
    assert max(put) <= 250
    assert [state_of(group).rows_of(key)[0][2] for key in ("k7", "k8")] == [3, 4]


def with_second_window(hub: Hub, broker: Broker) -> tuple[Group, Log]:
    """Return a group of two large windows, and the log of the second."""
    second = Log(WINDOW.topic, "5m")
    fence = broker.lease([WINDOW.partition], "me", 60_000)[WINDOW.partition]
    rows = [[f"k{number}", None, 1] for number in range(ROWS)]
    frame = {"topic": second.topic, "window": second.window, "offset": 1, "columns": COLUMNS, "data": rows}
    broker.append_statistics([StatisticsWrite(second, FrameKind.SNAPSHOT, 1, orjson.dumps(frame))], fence)
    group = hub.group(Query(statistics=(WINDOW.topic,), windows=("1m", "5m")))
    hub.feed.live.up.set()
    turn_until(group.settled.is_set)
    return group, second


def test_windows_larger_than_what_is_kept_start_over_once(
    hub: Hub, write: Write, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two windows of 10 MB are more than a process keeps of encoded rows. After a restart of Redis each dropped what
    was prepared of the other, for ever, and their streams got a reset and nothing after it."""
    monkeypatch.setattr(rankings, "_KEPT", 150_000)
    group, _ = with_second_window(hub, broker)
    sent, before = captured(group), group.generation
    broker.connections.commands([("HSET", broker.keys.partition(WINDOW.partition), "run", "0" * 40)])
    group.followers[WINDOW.partition].wake()
    turn_until(lambda: group.generation > before and group.settled.is_set(), seconds=30)
    assert [message.event for message in Decoder().feed(b"".join(sent))] == ["reset", "snapshot", "snapshot"]


def test_windows_larger_than_what_is_kept_are_encoded_once_for_a_message(
    hub: Hub, write: Write, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six windows of 20 MB were encoded again when their message was made, each after it had been dropped for the one
    before: 158 ms in one step."""
    monkeypatch.setattr(rankings, "_KEPT", 150_000)
    group, second = with_second_window(hub, broker)
    tables = [hub.rankings.table(group.tail(of).window_state, Selection()) for of in (WINDOW, second)]
    group.prepare()
    assert group.conflation.initial_state().count(b"event: snapshot") == 2
    assert [table.encoded for table in tables] == [ROWS, ROWS]
    turn_until(lambda: sum(table.edition is not None for table in tables) == 1)


def test_a_window_without_room_is_not_loaded(narrow_hub: Hub, write: Write) -> None:
    write(FrameKind.SNAPSHOT, [[f"k{number}", None, 1] for number in range(2 * ROWS)])
    group = group_of(narrow_hub)
    turn_until(lambda: group.closed)
    with pytest.raises(TooManyLogsFollowed, match=r"limits\.followed_bytes"):
        group.wait_settled()
    assert group.settled.is_set(), "who waits for it learns the reason"
    assert (narrow_hub.feed.followed, narrow_hub.feed.followed_bytes) == (0, 0)


def test_the_largest_window_ends_when_those_that_are_followed_outgrow_the_room(narrow_hub: Hub, write: Write) -> None:
    group, other = settled(narrow_hub), narrow_hub.group(Query(statistics=("other",), windows=("1m",)))
    turn_until(other.settled.is_set)
    assert 0 < narrow_hub.feed.followed_bytes < 400 * ROWS
    write(FrameKind.UPDATE, [[f"new{number}", None, 1] for number in range(ROWS)], 2)
    group.followers[WINDOW.partition].wake()
    turn_until(lambda: group.closed)
    assert not other.closed
    assert narrow_hub.feed.followed_bytes == 0


def test_a_stream_waits_as_long_as_windows_are_loaded(hub: Hub, write: Write) -> None:
    """All windows of 10,000 keys with 32 fields took more than 5 s, and the answer was that Redis is not reachable."""
    group = settled(hub)
    group.tail(WINDOW).loading = True
    group.settled.clear()

    def load() -> None:
        while True:
            hub.feed.loader.slices += 1
            gevent.sleep(0.01)

    loading, waiting = gevent.spawn(load), gevent.spawn(group._wait_loaded, 0.1)
    gevent.sleep(0.5)
    assert not waiting.ready()
    loading.kill()
    turn_until(waiting.ready)
    assert waiting.get() is False


def test_a_full_process_follows_no_other_window(narrow_hub: Hub, write: Write) -> None:
    settled(narrow_hub)
    narrow_hub.feed.tally.most = narrow_hub.feed.followed_bytes
    events = narrow_hub.group(Query(events=("other",)))
    statistics = narrow_hub.group(Query(statistics=("other",), windows=("1m",)))
    assert statistics.closed
    assert not events.closed
    assert not group_of(narrow_hub, fields=frozenset([None])).closed, "its window is followed already"


def test_rows_that_nobody_follows_are_dropped_in_slices(hub: Hub, write: Write) -> None:
    group = settled(hub)
    state = state_of(group)
    rows = state._rows
    assert len(rows) == ROWS
    hub.end(group, "nobody is left")
    assert (state.size, hub.feed.followed_bytes) == (0, 0)
    with counted_turns() as turns:
        turn_until(lambda: not rows)
    assert turns[0] >= ROWS // 4_000


def test_a_stream_does_not_begin_with_more_rows_than_are_sent_at_once(hub: Hub, write: Write) -> None:
    """Three windows of 41 MB were copied in one step of 0.16 s, and took 480 MB."""
    limit_snapshots(hub, 10 * ROWS)
    with pytest.raises(TooManyRows, match=r"limits\.snapshot") as refused:
        settled(hub).prepare()
    assert refused.value.status == 400
    settled(hub, fields=frozenset(["other"])).prepare()
    settled(hub, keys=frozenset(["k1"])).prepare()
    settled(hub, top=10).prepare()
    with pytest.raises(TooManyRows):
        settled(hub, top=ROWS).prepare()


def test_a_client_that_has_the_rows_may_come_back(hub: Hub, write: Write) -> None:
    group = settled(hub)
    limit_snapshots(hub, 10 * ROWS)
    group.prepare(group.cursor())
    with pytest.raises(TooManyRows):
        group.prepare("unreadable")


def test_subscriptions_of_one_stream_count_together(hub: Hub, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "start", lambda: None)  # no notifications are wanted here
    monkeypatch.setattr(Group, "wait_settled", lambda group: turn_until(group.settled.is_set))
    limit_snapshots(hub, 20 * ROWS)
    groups = [settled(hub), settled(hub, records=True)]
    subscriptions = [Subscription(f"stats/{n}", group.query) for n, group in enumerate(groups)]
    CombinedStream(hub, subscriptions[:1]).open()
    with pytest.raises(TooManyRows) as refused:
        CombinedStream(hub, subscriptions).open()
    assert refused.value.detail.startswith("sub[1]: about "), "a client can do without this one"


def test_streams_end_when_their_window_outgrows_what_is_sent_at_once(hub: Hub, write: Write) -> None:
    limit_snapshots(hub, 20 * ROWS)
    group, limited = settled(hub), settled(hub, keys=frozenset(["k1"]))
    peer = Peer(group.channel, hub=hub)
    write(FrameKind.UPDATE, [[f"new{number}", None, 1] for number in range(ROWS)], 2)
    group.followers[WINDOW.partition].wake()
    turn_until(lambda: group.closed)
    assert b"(limits.snapshot) are sent at once" in peer.read()
    assert not limited.closed


def test_a_slow_stream_ends_when_it_lacks_more_than_is_sent_at_once(hub: Hub, write: Write) -> None:
    group = settled(hub)
    peer = Peer(group.channel, hub=hub)
    chunk = group.channel.seal()
    chunk.cursor = encode({WINDOW.partition: Position(0, 0)})  # of before a restart of Redis
    limit_snapshots(hub, 10 * ROWS)
    group.recover(peer.connection, chunk)
    assert b"(limits.snapshot) are sent at once" in peer.read()
    assert peer.connection.closed
