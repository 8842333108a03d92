"""Filters of one log: each event is looked up by its key once, and compared with each other filter once."""

import json
import random

import gevent
import pytest

from pushsvc.cursor import Position, decode
from pushsvc.errors import TooManyFilters
from pushsvc.event import Event
from pushsvc.event.conditions import EventFilter
from pushsvc.hub.hub import Hub
from pushsvc.hub.limits import FeedLimits
from pushsvc.hub.query import Query
from pushsvc.settings import TopicSettings
from pushsvc.sse import Decoder
from pushsvc.topic import partition_of
from support.effort import rounds
from support.hubs import captured
from support.waiting import turn_until

TOPIC = "orders"
PARTITION = partition_of(TOPIC)


def publish(broker, *events):
    broker.publish(TOPIC, list(events), TopicSettings())


def of_key(key, *conditions, type=None):
    return EventFilter.of(type, frozenset([key]), conditions)


def of_any(*conditions, type=None):
    return EventFilter.of(type, None, conditions)


def joined(hub, filter, **options):
    """Return a group that has followed the topic's end, and the offsets of the messages that it sends."""
    group = hub.group(Query(events=(TOPIC,), filter=filter, **options))
    sent = captured(group)
    return group, sent


def settle(*groups):
    for group in groups:
        turn_until(lambda group=group: wake(group) or group.settled.is_set())


def wake(group):
    for router in group.followers.values():
        router.wake()
    gevent.sleep(0)


def offsets(messages):
    return [int(message.data.split('"$offset":')[1].split(",")[0]) for message in Decoder().feed(b"".join(messages))]


def reach(group, sequence):
    turn_until(lambda: wake(group) or group.followers[PARTITION].position.sequence >= sequence)


def test_event_reaches_exactly_the_groups_whose_filter_selects_it(hub, broker):
    filters = [
        of_key("u1"), of_key("u2"), of_any(type="sale"), of_any("price>2"), of_key("u1", "price>2", type="sale"),
        EventFilter.of(None, frozenset(["u1", "u3"]), ()), EventFilter.of(None, frozenset(), ()),
    ]  # fmt: skip
    found = [joined(hub, one) for one in filters]
    settle(*(group for group, _ in found))
    events = [
        Event(key="u1", type="sale", data={"price": 1}), Event(key="u1", type="sale", data={"price": 3}),
        Event(key="u2", data={"price": 3}), Event(key="u3", data={}), Event(type="sale", data={"price": "7"}),
    ]  # fmt: skip
    publish(broker, *events)
    reach(found[0][0], len(events))
    expected = [[n for n, event in enumerate(events, 1) if one.matches(event)] for one in filters]
    assert [offsets(sent) for _, sent in found] == expected == [[1, 2], [3], [1, 2, 5], [2, 3], [2], [1, 2, 4], []]


def test_ten_thousand_keys_on_one_topic_cost_a_look_up_an_event(hub, broker):
    groups = [joined(hub, of_key(f"u{n}")) for n in range(10_000)]
    settle(*(group for group, _ in groups))
    router = groups[0][0].followers[PARTITION]
    publish(broker, *(Event(key=f"u{n * 37}", data={}) for n in range(300)), Event(data={}))
    reach(groups[0][0], 301)
    assert (router.look_ups, router.evaluations) == (300, 0)
    assert [offsets(sent) for _, sent in groups if sent] == [[n + 1] for n in range(271)]
    assert sum(bool(sent) for _, sent in groups) == 271  # of 300 keys, 29 belong to nobody


def test_silent_group_has_the_position_of_its_partition(hub, broker):
    group, sent = joined(hub, of_key("nobody"))
    settle(group)
    publish(broker, *(Event(key="u", data={}) for _ in range(50)))
    broker.publish(next(f"near.{n}" for n in range(10_000) if partition_of(f"near.{n}") == PARTITION), [Event()],
                   TopicSettings())  # fmt: skip
    reach(group, 51)
    assert not sent
    assert decode(group.cursor())[PARTITION].sequence == 51


def test_equal_filters_share_a_group_and_one_evaluation(hub, broker):
    one = hub.group(Query(events=(TOPIC,), filter=of_any("price>2", "price<9", "price>2")))
    other = hub.group(Query(events=(TOPIC,), filter=of_any("price<9", "price>2")))
    assert one is other
    assert hub.group(Query(events=(TOPIC,), filter=of_any("price=1"))) is not hub.group(
        Query(events=(TOPIC,), filter=of_any("price=true"))
    )
    unnamed = hub.group(Query(events=(TOPIC,), filter=of_any("price<9", "price>2"), named=False))
    settle(one, unnamed)
    router = one.followers[PARTITION]
    before = router.evaluations
    publish(broker, *(Event(data={"price": n}) for n in range(10)))
    reach(one, 10)
    assert router.evaluations - before == 10 * 3  # the filter of both groups, and the two others


def test_filters_beyond_the_limit_are_refused_by_name(broker):
    broker.check_layout()
    broker.open_partitions()
    hub = Hub(broker, feed_limits=FeedLimits(filters=3))
    for n in range(3):
        assert not hub.group(Query(events=(TOPIC,), filter=of_any(f"n={n}"))).closed
        assert not hub.group(Query(events=(TOPIC,), filter=of_key("u", f"n={n}"))).closed
    for refused in (of_any("n=4"), of_key("u", "n=4"), EventFilter.of("sale", frozenset(["v", "u"]), ())):
        group = hub.group(Query(events=(TOPIC,), filter=refused))
        assert group.closed
        with pytest.raises(TooManyFilters, match=r"limits\.filters"):
            group._check()
    assert not hub.group(Query(events=(TOPIC,), filter=of_key("v", "n=4"))).closed
    for n in range(10):
        assert not hub.group(Query(events=(TOPIC,), filter=of_key(f"w{n}"))).closed
    hub.close()


def test_last_group_takes_the_router_and_the_subscription_along(hub):
    one, other = (hub.group(Query(events=(TOPIC,), filter=of_key(key))) for key in "ab")
    follower = hub.feed.follower(PARTITION)
    one.close()
    assert follower.tails
    other.close()
    assert not follower.tails
    assert not hub.feed._routers


@pytest.fixture
def slow(hub, monkeypatch):
    """A hub whose routers yield after every step."""
    monkeypatch.setattr(hub.feed, "limits", FeedLimits(slice=0.0, notified_bytes=3_000))
    return hub


def test_work_beyond_a_slice_is_finished_in_order_and_positions_wait_for_it(slow, broker, monkeypatch):
    groups = [joined(slow, filter) for filter in (of_any("n>=0"), of_key("u1"), of_key("nobody"))]
    settle(*(group for group, _ in groups))
    router = groups[0][0].followers[PARTITION]
    turn_until(lambda: router.is_idle)
    events, seen, advance = [Event(key=f"u{n % 2}", data={"n": n}) for n in range(40)], [], router._advance

    def advance_and_look():
        done = advance()
        for group, sent in groups:
            position = decode(group.cursor())[PARTITION].sequence
            selected = [n for n, event in enumerate(events, 1) if group.filter.matches(event)]
            assert offsets(sent) == [offset for offset in selected if offset <= position]
        seen.append(router.position.sequence)
        return done

    monkeypatch.setattr(router, "_advance", advance_and_look)
    for start in range(0, 40, 10):
        publish(broker, *events[start : start + 10])
    reach(groups[0][0], 40)
    turn_until(lambda: router.is_idle)
    assert len(seen) > 40
    assert seen == sorted(seen)
    assert len({*seen}) > 3
    assert offsets(groups[0][1]) == list(range(1, 41))
    assert offsets(groups[1][1]) == list(range(2, 41, 2))
    assert all(decode(group.cursor())[PARTITION].sequence == 40 for group, _ in groups)


def test_entries_that_wait_too_long_are_read_from_the_log(slow, broker):
    """More entries come than may wait in memory. They are dropped and read again, in order and once."""
    group, sent = joined(slow, of_any("n>=0"))
    settle(group)
    router, dropped = group.followers[PARTITION], []
    for n in range(60):
        publish(broker, *(Event(data={"n": n, "text": "x" * 50}) for _ in range(5)))
        wake(group)
        dropped.append(router._behind)
    assert any(dropped)
    late, _ = joined(slow, of_key("late"))
    reach(group, 300)
    turn_until(lambda: wake(late) or (router.is_idle and late.settled.is_set()))
    assert offsets(sent) == list(range(1, 301))


def test_router_that_reads_the_log_is_never_ahead_of_its_follower(slow, broker, monkeypatch):
    """Events are published while the router reads, and the follower has not heard of them yet."""
    group, sent = joined(slow, of_any("n>=0"))
    settle(group)
    router, published = group.followers[PARTITION], [0]
    turn_until(lambda: router.is_idle)

    def more(number):
        publish(broker, *(Event(data={"n": n, "text": "x" * 500}) for n in range(number)))
        published[0] += number

    class Reader:
        reads = 0

        @classmethod
        def read(cls, *asked):
            cls.reads += 1
            more(1)
            return original.read(*asked)

    original = router._reader
    monkeypatch.setattr(router, "_reader", Reader)
    while Reader.reads < 5:
        for _ in range(2):  # the second batch comes while the router is busy with the first one
            more(10)
            router._follower.wake()
            router._follower.step()
        for _ in range(100):
            gevent.sleep(0.0005)  # zero would leave out timers, which the router waits for
            assert router.position.sequence <= router._follower.position.sequence
    monkeypatch.setattr(router, "_reader", original)
    reach(group, published[0])
    turn_until(lambda: router.is_idle)
    assert offsets(sent) == list(range(1, published[0] + 1))


def test_log_that_was_trimmed_while_filters_were_behind_is_reset(slow, broker):
    group, sent = joined(slow, of_any("n>=0"))
    settle(group)
    router = group.followers[PARTITION]
    settings = TopicSettings(windows=(), retention=10)
    for n in range(60):
        broker.publish(TOPIC, [Event(data={"n": n, "text": "x" * 50}) for _ in range(5)], settings)
        wake(group)
    turn_until(lambda: wake(group) or (router.is_idle and group.settled.is_set()))
    messages = list(Decoder().feed(b"".join(sent)))
    resets = [number for number, message in enumerate(messages) if message.event == "reset"]
    assert resets
    assert all('"trimmed"' in messages[number].data for number in resets)
    found = [int(m.data.split('"$offset":')[1].split(",")[0]) for m in messages[resets[-1] + 1 :]]
    assert found == list(range(found[0], 301))
    assert len(found) <= 300


def test_every_group_is_reset_when_redis_was_restarted_and_gets_what_is_left(hub, broker):
    groups = [joined(hub, filter) for filter in (of_key("u1"), of_any("n>1"), of_key("nobody"))]
    settle(*(group for group, _ in groups))
    publish(broker, *(Event(key=f"u{n % 2}", data={"n": n}) for n in range(4)))
    reach(groups[0][0], 4)
    before = decode(groups[2][0].cursor())[PARTITION]
    broker.connections.commands([("HSET", broker.keys.partition(PARTITION), "run", "0" * 40)])
    router = groups[0][0].followers[PARTITION]
    turn_until(lambda: wake(groups[0][0]) or router.position.epoch not in (0, before.epoch))
    settle(*(group for group, _ in groups))
    found = [
        [(m.event, None if m.event == "reset" else int(m.data.split('"$offset":')[1].split(",")[0]))
         for m in Decoder().feed(b"".join(sent))] for _, sent in groups
    ]  # fmt: skip
    selected = [[("message", 2), ("message", 4)], [("message", 3), ("message", 4)], []]
    assert found == [[*events, ("reset", None), *events] for events in selected]
    assert {decode(group.cursor())[PARTITION].epoch for group, _ in groups} == {router.position.epoch}


def test_error_of_one_group_does_not_reach_another(hub, broker, monkeypatch):
    (one, _), (other, sent) = joined(hub, of_key("u")), joined(hub, of_any("n=1"))
    settle(one, other)
    monkeypatch.setattr(one, "take_selected", lambda *_: 1 / 0)
    publish(broker, Event(key="u", data={"n": 1}))
    turn_until(lambda: wake(other) or one.closed)
    assert offsets(sent) == [1]
    assert not other.closed


@pytest.mark.parametrize("seed", range(rounds(10)))
def test_clients_of_a_router_that_is_mostly_behind_get_each_event_once(slow, broker, subscribe, seed):
    """Clients leave and come back at random, some with a position that the router has not reached."""
    dice = random.Random(seed)
    filters = [of_any("n>=0"), of_key("u1"), of_any("n<40", type="sale"), of_key("nobody"), of_key("u2", "half=true")]
    groups = [slow.group(Query(events=(TOPIC,), filter=one)) for one in filters]
    settle(*groups)
    router, published = groups[0].followers[PARTITION], []
    clients = [Client(group, router.position.epoch) for group in groups * 2]
    lags = 0
    for _ in range(60):
        events = [
            Event(key=dice.choice(["u1", "u2", None]), type=dice.choice(["sale", "gift"]),
                  data={"n": dice.randrange(100), "half": dice.random() < 0.5, "text": "x" * 50})
            for _ in range(dice.choice([1, 2, 30]))
        ]  # fmt: skip
        publish(broker, *events)
        published += events
        if dice.random() < 0.7:
            router._follower.wake()
            router._follower.step()
            lags += not router.is_idle
        for client in dice.sample(clients, 2):
            client.leave()
            if dice.random() < 0.7:
                client.come(subscribe, here=router._follower.position if dice.random() < 0.1 else None)
        for _ in range(dice.randrange(5)):
            gevent.sleep(0.0005)
    for client in clients:
        client.leave()
        client.come(subscribe)
    for client in clients:
        wanted = [n for n, event in enumerate(published, 1) if client.group.filter.matches(event)]
        wanted = [n for n in wanted if n not in client.passed_over]
        turn_until(lambda: wake(client.group) or client.receive() >= len(wanted))  # noqa: B023
        assert client.received == wanted
    assert lags > 5


class Client:
    """A client that resumes after what it has received. It may also come with a later position, from elsewhere."""

    def __init__(self, group, epoch):
        self.group, self.received, self.passed_over = group, [], set()
        self._positions, self._subscriber = {PARTITION: Position(epoch, 0)}, None

    def come(self, subscribe, here=None):
        if here is not None:
            before = self._positions[PARTITION].sequence
            self.passed_over |= set(range(before + 1, here.sequence + 1))
            self._positions = {PARTITION: here}
        self._subscriber, self._taken = subscribe(self.group, dict(self._positions)), 0

    def receive(self):
        if self._subscriber is not None:
            self._subscriber.receive()
            for message in self._subscriber.messages[self._taken :]:
                self._positions = decode(message.id)
                self.received.append(json.loads(message.data)["$offset"])
            self._taken = len(self._subscriber.messages)
        return len(self.received)

    def leave(self):
        if self._subscriber is not None:
            self.receive()
            self._subscriber.connection.close()
            self._subscriber = None
