"""Looking events up by an index against reading the whole log."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from secrets import token_hex

from hypothesis import example, given
from hypothesis import strategies as st

from pushsvc.broker.broker import Broker
from pushsvc.event import Event
from pushsvc.event.conditions import EventFilter
from pushsvc.pause import no_pause
from pushsvc.web.history import HistoryFilter, PageRequest, ScanLimits, read_page
from support.reference.logs import LOG, PARTITION, Windowless

TEXTS = st.sampled_from(["u1", "u2", "u", "", "1", "true", "a\0b", "ü" * 201, "é"])
VALUES = st.one_of(st.just("u1"), TEXTS, st.sampled_from([1, 1.0, True, None, -0.5, [1], {"a": 1}]))
EVENTS = st.builds(
    Event,
    id=st.none() | st.text("ab", min_size=1, max_size=3),
    key=st.none() | TEXTS.filter(bool),
    type=st.sampled_from(["message", "order"]),
    data=st.dictionaries(st.sampled_from(["user", "u", "n"]), VALUES, max_size=3),
)
INDEX = st.sampled_from([("user", "key"), ("key", "user"), (), ("type", "u")])  # of processes with other settings
OPERATIONS = st.one_of(
    st.tuples(st.just("publish"), st.lists(EVENTS, min_size=1, max_size=12), INDEX),
    st.tuples(st.just("publish"), st.lists(EVENTS, min_size=1, max_size=12), INDEX),
    st.tuples(st.just("publish in bulk"), st.integers(1_000, 5_000)),
    st.tuples(st.just("settings"), INDEX, st.sampled_from([3, 20, 5_000, 100_000]), st.booleans()),
    st.tuples(st.just("sweep")),
    st.tuples(st.just("fill"), st.integers(1, 3)),
    st.tuples(st.just("delete")),
)
FILTERS = st.builds(
    lambda type, keys, conditions, values: EventFilter.of(type, keys, conditions, values),
    type=st.none() | st.sampled_from(["message", "order"]),
    keys=st.none() | st.frozensets(TEXTS, max_size=3),
    conditions=st.lists(st.just("n=1"), max_size=1),
    values=st.lists(st.tuples(st.sampled_from(["user", "u"]), TEXTS), max_size=2),
)
OFTEN = EventFilter.of(None, None, (), [("user", "u1")])


@dataclass
class Rows:
    """The offsets of found events."""

    found: list[int] = field(default_factory=list)

    def add(self, event):
        self.found.append(event["$offset"])
        return 10

    def reverse(self):
        self.found.reverse()


@example(operations=[("publish in bulk", 1_000)], wanted=EventFilter(), most=1, limit=1_000, scanned=5)
@given(
    operations=st.lists(OPERATIONS, max_size=12), wanted=FILTERS, most=st.sampled_from([1, 2, 7, 500]),
    limit=st.sampled_from([1, 3, 1_000]), scanned=st.sampled_from([1, 5, 50, 200_000]),
)  # fmt: skip
def test_an_index_finds_what_a_scan_finds(redis_url, operations, wanted, most, limit, scanned):
    broker = Broker(redis_url, f"index-{token_hex(4)}:")
    broker.index.found_events = most
    try:
        index = run(broker, operations)
        limits = ScanLimits(scanned)
        for one, fields in ((wanted, index), (OFTEN, index), (OFTEN, ("key", "user"))):
            for at_end in (False, True):
                expected = list(pages(broker, HistoryFilter(None, None, one), 10_000, at_end, ScanLimits()))
                assert list(pages(broker, HistoryFilter(None, None, one, fields), limit, at_end, limits)) == expected
    finally:
        broker.delete(LOG.topic)
        assert not broker.connections.command("EXISTS", broker.keys.index(LOG.topic))
        broker.close()


def run(broker, operations):
    """Do what users and aggregators do; return the fields of the last settings."""
    settings = Windowless(index=("user", "key"))
    fence = broker.lease([PARTITION], "me", 3_600_000)[PARTITION]
    for name, *arguments in operations:
        match name:
            case "publish":
                broker.publish(LOG.topic, arguments[0], replace(settings, index=arguments[1]))
            case "publish in bulk":
                broker.publish(
                    LOG.topic, [Event(data={"user": "u1" if n % 97 == 0 else n}) for n in range(*arguments)], settings
                )
            case "settings":
                settings = Windowless(index=arguments[0], retention=arguments[1], latest=arguments[2])
            case "sweep":
                while broker.sweep({LOG.topic: settings}, fence, 50).get(LOG.topic, DONE).more:
                    pass
            case "fill":
                broker.index.fill(LOG.topic, settings.index, *arguments)
            case "delete":
                broker.delete(LOG.topic)
    return settings.index


class DONE:
    more = False


def pages(broker, selected, limit, at_end, limits):
    """Yield the offsets on all pages, from the first or from the last event on."""
    cursor = None
    while True:
        rows = Rows()
        if at_end:
            request = PageRequest(limit, before=cursor, at_end=True, newest_first=True)
        else:
            request = PageRequest(limit, after=cursor)
        page = read_page(broker, LOG.topic, selected, request, limits, rows, no_pause)
        yield from rows.found
        cursor = page.older if at_end else page.newer
        if cursor is None:
            return
