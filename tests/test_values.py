"""Statistics of values against an account of the events that knows nothing of pushsvc.stats."""

import dataclasses
import json
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from effort import rounds
from pushsvc.aggregate import Aggregate
from pushsvc.event import Event
from pushsvc.event.columns import ColumnReader, Columns
from pushsvc.settings import TopicSettings
from pushsvc.stats.window import Window

T = 1_700_000_000_000
STATISTICS = ("p50", "distinct", "top3", "first", "last", "top")
NOW = TopicSettings(
    windows=tuple(map(Window.parse, ("10s", "1m"))),
    statistics=STATISTICS,
    values=("v", "w"),
    cadence=0,
    idle_cadence=0,
)
EVENT_CLOCK = dataclasses.replace(NOW, clock="event")
GROUPED = dataclasses.replace(NOW, key=("key", "k2", "key+k2"))
LAST = dataclasses.replace(NOW, windows=tuple(map(Window.parse, ("last 3", "last 20"))))
EXACT = dataclasses.replace(NOW, exact=True)
FEW = dataclasses.replace(EXACT, max_events=6)
BOTH = dataclasses.replace(GROUPED, windows=tuple(map(Window.parse, ("10s", "last 5", "1m", "last 20"))))
ALL = dataclasses.replace(BOTH, exact=True, clock="event")
RECENT = [LAST, EXACT, FEW, BOTH, ALL, dataclasses.replace(BOTH, clock="event", key=("key",))]
"""Settings whose windows keep their events, some beside windows of panes."""

EXACT_COLUMNS = ("count", "distinct", "top3", "first", "last", "top", "approximate")


class Account:
    """An aggregate with topic ``t``, and the log of what it was given: (time, event)."""

    def __init__(self, settings=NOW):
        self.settings = settings
        self.all = Aggregate(settings, T)
        self.topic = self.all.open("t", T)
        self.log = []

    def send(self, arrival, *events):
        self.log += [(arrival if event.time is None else event.time, event) for event in events]
        self.all.apply("t", len(self.log), arrival, Columns.of(events, self.settings.key, self.settings.values))

    def rows(self, window="1m"):
        return told(self.all.snapshot("t", window))


def told(frame):
    """Return (key, field, by) -> column -> value."""
    rows = [dict(zip(frame.columns, row, strict=True)) for row in json.loads(frame.body)["data"]]
    return {(row["key"], row["field"], row.get("by")): row for row in rows}


def event(time=None, key="a", **data):
    return Event(time=time, key=key, data=data)


def identity(value):
    """Return what two values share if they are the same: numbers are, by worth; a boolean is none."""
    return (type(value) is bool, value)


def written(value):
    """Return a value as it comes back."""
    whole = type(value) is float and value.is_integer() and -(2**63) <= value < 2**64
    return int(value) if whole else value


def keys_of(settings, one):
    """Return (key, by) of the rows in which an event counts."""
    keys = [(None, None)]
    for grouping in settings.key:
        parts = [one.key if name == "key" else one.data.get(name) for name in grouping.split("+")]
        if None not in parts:
            keys.append(("+".join(parts), grouping if len(settings.key) > 1 else None))
    return keys


def expected(account, frame):
    """Compute the rows of fields whose values are kept, from the log."""
    found, last = {}, account.settings.window(frame.window).events
    for offset, (time, one) in enumerate(account.log[: frame.offset], 1):
        inside = offset > frame.offset - last if last else frame.start <= time < frame.end
        for name in account.settings.values:
            value = one.data.get(name)
            if value is None or isinstance(value, list | dict):
                continue
            for key, by in keys_of(account.settings, one):
                group = found.setdefault((key, name, by), [])
                group += [(time, value)] * inside
    return {name: figures(values) for name, values in found.items() if values or name[0] is None}


def figures(values):
    counts = Counter(identity(value) for _, value in values)
    names = {identity(value): written(value) for _, value in values}
    ranked = sorted(counts, key=lambda one: (-counts[one], json.dumps(names[one], ensure_ascii=False).encode()))
    top = [[names[one], counts[one]] for one in ranked]
    ordered = sorted(values, key=lambda one: one[0])
    first, last = (None, None) if not values else (written(ordered[0][1]), written(ordered[-1][1]))
    return {
        "count": len(values), "distinct": len(counts), "top3": top[:3], "top": top[:10],
        "first": first, "last": last, "approximate": False, "all": top,
    }  # fmt: skip


def strict(value):
    """Return what compares equal only if also the types are the same."""
    return json.dumps(value)


def exact(rows):
    """Return rows without what may differ in the last bit."""
    return {place: strict({name: row[name] for name in EXACT_COLUMNS}) for place, row in rows.items()}


def check(account, window):
    frame = account.all.snapshot("t", window)
    wanted = expected(account, frame)
    found = {name: row for name, row in told(frame).items() if name[1] in account.settings.values}
    assert exact(found) == exact(wanted), (frame.window, frame.offset)


def check_near(account, window):
    """Check rows of a topic with more values than are followed: exact where they say so, within bounds elsewhere."""
    frame = account.all.snapshot("t", window)
    wanted, near = expected(account, frame), 0
    for name, row in told(frame).items():
        if name[1] not in account.settings.values:
            continue
        if row["approximate"]:
            near += 1
            assert [row[one] for one in ("count", "first", "last")] == [
                wanted[name][one] for one in ("count", "first", "last")
            ]  # fmt: skip
            assert row["distinct"] == pytest.approx(wanted[name]["distinct"], abs=2)
            true = {identity(value): count for value, count in wanted[name]["all"]}
            assert all(count <= true[identity(value)] for value, count in row["top"])
        else:
            assert exact({name: row}) == exact({name: wanted[name]}), name
    return near


# -- the contract


def test_a_frame_with_values():
    account = Account()
    account.send(T, event(v="x", n=1), event(v="y", n=2), event(v="x"), event(key="b", v=7, w=True))
    assert account.all.snapshot("t", "1m").columns == (
        "key", "field", "count", "rate", "sum", "mean", "min", "max", "std", *STATISTICS, "approximate"
    )  # fmt: skip
    rows = account.rows()
    assert rows.keys() == {
        (key, field, None)
        for key, field in [
            (None, None), ("a", None), ("b", None), (None, "n"), ("a", "n"), (None, "v"), ("a", "v"), ("b", "v"),
            (None, "w"), ("b", "w"),
        ]
    }  # fmt: skip
    total = rows[None, "v", None]
    assert (total["count"], total["rate"], total["sum"], total["mean"], total["p50"]) == (4, 4 / 60, 7.0, 7.0, 7.0)
    assert (total["distinct"], total["top"]) == (3, [["x", 2], ["y", 1], [7, 1]])
    assert (total["first"], total["last"], total["approximate"]) == ("x", 7, False)
    text = rows["a", "v", None]
    assert [text[name] for name in ("sum", "mean", "min", "max", "std", "p50")] == [None] * 6
    assert rows["b", "w", None]["top"] == [[True, 1]]
    assert {rows[None, field, None][name] for field in (None, "n") for name in STATISTICS[1:]} == {None}
    assert rows[None, "n", None]["approximate"] is False


def test_what_has_left_is_nothing_and_then_gone():
    account = Account()
    account.send(T, event(v="x"))
    account.all.flush(T)
    account.all.advance(T + 20_000)
    first, second = account.all.flush(T + 20_000), account.all.flush(T + 20_000)
    row = told(first[0])["a", "v", None]
    assert [row[name] for name in ("count", "sum", *STATISTICS, "approximate")] == [
        0, None, None, 0, [], None, None, [], False
    ]  # fmt: skip
    assert set(second[0].gone) == {("a", None), ("a", "v")}
    assert told(account.all.snapshot("t", "10s"))[None, "v", None]["distinct"] == 0


@pytest.mark.parametrize("statistics", [("first",), ("last", "p50"), ("distinct",), ("top5", "first")])
def test_only_what_is_asked_for_is_told(statistics):
    account = Account(dataclasses.replace(NOW, statistics=statistics))
    account.send(T, event(v="x"), event(v="y"))
    exact = set(statistics) <= {"first", "last", "p50"}
    assert account.settings.columns[9:] == (*statistics, *(() if exact else ("approximate",)))
    row, wanted = (
        account.rows()["a", "v", None],
        {"first": "x", "last": "y", "distinct": 2, "top5": [["x", 1], ["y", 1]]},
    )
    assert [row[name] for name in statistics] == [wanted.get(name) for name in statistics]


# -- the rules of values


@pytest.mark.parametrize(
    ("values", "top"),
    [
        ([1, 1.0, "1", True], [[1, 2], ["1", 1], [True, 1]]),
        ([0.0, -0.0, 0, False], [[0, 3], [False, 1]]),
        ([2**53, 2**53 + 1, float(2**53)], [[2**53, 2], [2**53 + 1, 1]]),
        ([2**64 - 1, -(2**63), 1e300], [[-(2**63), 1], [2**64 - 1, 1], [1e300, 1]]),
        ([None, [1], {"x": 1}], None),
        ([None, "null", "", [], ""], [["", 2], ["null", 1]]),
        (["é", "e\u0301", "É"], [["e\u0301", 1], ["É", 1], ["é", 1]]),
        ([0.5, 5e-1, "0.5"], [[0.5, 2], ["0.5", 1]]),
    ],
)  # fmt: skip
def test_what_is_the_same_value_and_what_is_none(values, top):
    account = Account()
    account.send(T, event(n=1), *[event(v=value) for value in values])
    rows = account.rows()
    assert rows["a", None, None]["count"] == len(values) + 1
    if top is None:
        assert ("a", "v", None) not in rows
        assert (None, "v", None) not in rows
    else:
        row = rows["a", "v", None]
        assert strict(row["top"]) == strict(top)
        assert row["count"] == sum(count for _, count in top)
        assert row["distinct"] == len(top)


def test_numbers_among_values_have_figures_and_booleans_have_none():
    account = Account()
    account.send(T, event(v="text"), event(v=True), event(v=2**53 + 1), event(v=3), event(v=None))
    row = account.rows()["a", "v", None]
    assert [row[name] for name in ("count", "sum", "min", "max", "distinct")] == [4, 2.0**53 + 4, 3, 2.0**53, 4]
    assert (row["first"], row["last"]) == ("text", 3)
    account.all.advance(T + 30_000)
    account.send(T + 30_000, event(v="more"))
    account.all.advance(T + 61_000)
    row = account.rows()["a", "v", None]
    assert [row[name] for name in ("count", "sum", "min", "first")] == [1, None, None, "more"]


def test_long_text_is_cut_where_it_is_told_and_told_apart_by_its_whole():
    account = Account()
    one, other, edge = "x" * 300 + "1", "x" * 300 + "2", "x" * 200
    account.send(T, *[event(v=value) for value in (one, other, one, edge)])
    row = account.rows()["a", "v", None]
    assert row["distinct"] == 3
    assert row["top"] == [["x" * 200 + "…", 2], [edge, 1], ["x" * 200 + "…", 1]]
    assert (row["first"], row["last"]) == ("x" * 200 + "…", edge)


def test_of_equal_times_the_order_of_the_log_decides():
    account = Account()
    account.send(T + 5_000, event(T, v="1st"), event(T, v="2nd"))
    account.send(T + 5_000, event(T, v="3rd"), event(T - 1, v="before"), event(T + 5_000, v="end"), event(v="very end"))
    account.send(T + 5_000, event(T - 1, v="too late"))
    row = account.rows()["a", "v", None]
    assert (row["first"], row["last"]) == ("before", "very end")
    account.all.advance(T + 60_000 - 1)
    assert [account.rows()["a", "v", None][name] for name in ("first", "distinct")] == ["1st", 5]


def test_attributes_may_be_kept_as_values():
    account = Account(dataclasses.replace(NOW, values=("key", "type")))
    account.send(T, event(), event(key=None), Event(type="vote", key="b"))
    rows = account.rows()
    assert rows[None, "key", None]["top"] == [["a", 1], ["b", 1]]
    assert rows[None, "type", None]["top"] == [["message", 2], ["vote", 1]]


# -- bounds


def test_beyond_the_cap_of_a_field_what_is_told_is_flagged_until_all_of_it_has_left():
    account = Account(dataclasses.replace(NOW, max_values=3))
    account.send(T, *[event(v=value) for value in "aabcde"], event(key="b", v="a"), *[event(w=n) for n in range(3)])
    rows = account.rows()
    near = rows["a", "v", None]
    assert (near["approximate"], near["distinct"], near["count"]) == (True, 5, 6)
    assert near["top"] == [["a", 2], ["b", 1], ["c", 1]]
    assert (near["first"], near["last"]) == ("a", "e")
    assert (rows["b", "v", None]["approximate"], rows["b", "v", None]["distinct"]) == (False, 1)
    assert (rows[None, "w", None]["approximate"], rows[None, "w", None]["distinct"]) == (False, 3)
    account.send(T + 20_000, event(v="e"), event(v="d"))
    account.send(T + 59_000, event(v="e"))
    assert account.rows("10s")["a", "v", None]["approximate"]
    account.send(T + 61_000, event(v="f"))
    account.all.advance(T + 81_000)
    account.send(T + 81_500, event(v="g"))
    row = account.rows()["a", "v", None]
    assert (row["distinct"], row["first"], row["last"]) == (3, "e", "g")


def test_values_that_nobody_holds_make_room():
    account = Account(dataclasses.replace(NOW, max_values=10))
    for minute in range(20):
        now = T + minute * 120_000
        account.send(now, *[event(v=f"{minute}-{n}") for n in range(10)])
        row = account.rows()["a", "v", None]
        assert (row["distinct"], row["approximate"]) == (10, False), minute
    assert account.all._rolling.vocabulary.size < 40


def test_values_of_one_moment_are_not_kept_for_ever():
    """A replay whose events all have one time never moves its head."""
    account = Account(dataclasses.replace(EVENT_CLOCK, max_values=100))
    for entry in range(16):
        account.send(T, *[event(T, v=f"{entry}-{n}") for n in range(1_000)])
    assert account.all._rolling.vocabulary.used < 13_000
    row = account.rows()["a", "v", None]
    assert row["distinct"] == pytest.approx(16_000, rel=0.07)
    assert (row["first"], row["last"], row["approximate"]) == ("0-0", "15-999", True)


def test_a_deleted_topic_leaves_no_values_to_the_next():
    account = Account()
    account.all.open("u", T)
    for name in ("t", "u"):
        account.all.apply(name, 1, T, Columns.of([event(T + 3_000, v=name), event(v=name)], ("key",), ("v",)))
    account.all.close("t")
    account.all.advance(T + 50)
    account.topic = account.all.open("t", T)
    account.log.clear()
    account.send(T + 100, event(v="new"))
    account.all.advance(T + 5_000)
    check(account, "10s")
    check(account, "1m")
    assert told(account.all.snapshot("u", "1m"))["a", "v", None]["top"] == [["u", 2]]


def test_keys_beyond_the_cap_share_their_values():
    account = Account(dataclasses.replace(NOW, max_keys=1))
    account.send(T, *[event(key=key, v=value) for key, value in ("ax", "bx", "cy", "bx")])
    rows = account.rows()
    assert rows["__other__", "v", None]["top"] == [["x", 2], ["y", 1]]
    assert rows[None, "v", None]["top"] == [["x", 3], ["y", 1]]


def test_memory_of_values_counts_and_beyond_it_no_new_value_is_followed():
    account = Account()
    before = account.all._rolling.bytes
    account.send(T, *[event(v=f"value {n}") for n in range(2_000)])
    account.rows()
    assert account.all._rolling.bytes > before + 2_000 * 400
    account.all._most_bytes = 1
    account.send(T + 1_000, event(v="one more"), event(v="value 7"))
    row = account.rows()["a", "v", None]
    assert row["approximate"]
    assert row["distinct"] == pytest.approx(2_001, rel=0.05)
    assert row["top3"][0] == ["value 7", 2]


def test_fields_beyond_the_cap_are_ignored_values_too():
    account = Account(dataclasses.replace(NOW, max_fields=1))
    account.send(T, event(v="x", w=3), event(v="y", w="z"))
    assert {field for _, field, _ in account.rows()} == {None, "w"}
    assert account.topic.ignored == 2


# -- any series

scalars = st.one_of(
    st.none(), st.booleans(), st.sampled_from(["x", "y", "z", "", "1"]), st.integers(-2, 2),
    st.sampled_from([0.5, 1.0]),
    st.sampled_from([2**53, 2**53 + 1, 2.0**53, [1], {"v": 1}]),
)  # fmt: skip
data = st.fixed_dictionaries({}, optional={"v": scalars, "w": scalars, "k2": st.sampled_from(["p", "q"])})
shifts = st.one_of(st.none(), st.integers(-3_000, 5_000), st.integers(-70_000, 5_000))
batches = st.lists(st.tuples(shifts, st.sampled_from(["a", "b", None]), data), min_size=1, max_size=12)
gaps = st.sampled_from([0, 1, 250, 999, 4_000, 11_000, 61_000])
steps = st.lists(st.tuples(gaps, st.one_of(st.just([]), batches), st.booleans()), min_size=1, max_size=12)


def play(account, series):
    now = T + 17
    for gap, batch, look in series:
        now += gap
        if batch:
            account.send(now, *[Event(time=None if d is None else now + d, key=k, data=v) for d, k, v in batch])
        else:
            account.all.advance(now)
        yield now, look


@given(steps, st.sampled_from([NOW, EVENT_CLOCK, GROUPED, *RECENT]))
def test_every_frame_is_exact_for_its_own_offset_and_interval(series, settings):
    account = Account(settings)
    for now, look in play(account, series):
        if look:
            account.all.flush(now)
            for window in settings.windows:
                check(account, window.name)


@given(steps, st.data(), st.sampled_from([NOW, EVENT_CLOCK, *RECENT]))
def test_an_entry_says_the_same_in_any_split(series, draws, settings):
    whole, split = Account(settings), Account(settings)
    for now, _ in play(whole, series):
        split.all.advance(now)
        while len(split.log) < len(whole.log):
            size = draws.draw(st.integers(1, len(whole.log) - len(split.log)))
            begun = len(split.log)
            split.send(now, *[replace(one, time=time) for time, one in whole.log[begun : begun + size]])
            if draws.draw(st.booleans()):
                split.all.flush(now)
    for window in settings.windows:
        mine, other = (exact(told(one.all.snapshot("t", window.name))) for one in (whole, split))
        assert mine == other


def capped(*many):
    return [dataclasses.replace(settings, max_values=2) for settings in many]


@given(steps, st.integers(0, 11), st.sampled_from([NOW, EVENT_CLOCK, *RECENT, *capped(NOW, *RECENT)]))
def test_a_restored_aggregate_says_the_same_bytes(series, stop, settings):
    stayed, restored = Account(settings), None
    for number, (now, _) in enumerate(play(stayed, series)):
        said = [frame.to_json(now) for frame in stayed.all.due(now) + stayed.all.flush(now)]
        if restored is not None:
            missing = [replace(e, time=t) for t, e in stayed.log[restored.topics["t"].offset :]]
            if missing:
                restored.apply("t", len(stayed.log), now, Columns.of(missing, settings.key, settings.values))
            else:
                restored.advance(now)
            assert [frame.to_json(now) for frame in restored.due(now) + restored.flush(now)] == said
        if number == stop:
            restored = Aggregate.restore(settings, b"".join(stayed.all.save()))
    assert Aggregate.restore(settings, b"".join(stayed.all.save())).save() == stayed.all.save()


@given(steps, st.sampled_from([NOW, EVENT_CLOCK, *RECENT, *capped(NOW, *RECENT)]))
def test_a_reader_of_updates_has_what_a_snapshot_says(series, settings):
    account, windows = Account(settings), {window.name: {} for window in settings.windows}
    for now, look in play(account, series):
        for frame in account.all.flush(now) if look else ():
            for place in frame.gone:
                del windows[frame.window][(*place, None)[:3]]
            windows[frame.window].update(told(frame))
    account.all.flush(now)
    for frame in Aggregate.restore(settings, b"".join(account.all.save())).flush(now):
        assert not frame.rows
    restored = Aggregate.restore(settings, b"".join(account.all.save()))
    for name in windows if look else ():
        live = {place: row for place, row in windows[name].items() if row["count"] or place[0] is None}
        assert live == told(restored.snapshot("t", name))


@pytest.mark.parametrize("settings", [NOW, EVENT_CLOCK])
def test_long_series_beyond_the_cap_are_exact_where_they_say_so(settings):
    random_, account = random.Random(7), Account(dataclasses.replace(settings, max_values=12))
    now, near, looks = T, 0, 0
    for step in range(rounds(300)):
        now += random_.choice([100, 1_000, 7_000])
        crowd = 60 if step // 10 % 3 else 8  # now and then few values, so that all of them find a place again
        values = [random_.randrange(crowd) for _ in range(random_.choice([1, 20]))]
        late = random_.choice([0, 0, 5_000])
        account.send(now, *[event(now - random_.randrange(late + 1), random_.choice("ab"), v=one) for one in values])
        if step % 5 == 0:
            for window in settings.windows:
                near += check_near(account, window.name)
                looks += 3
    assert 0 < near < looks or rounds(300) < 100


@pytest.mark.parametrize(("settings", "seed"), [(NOW, 1), (EVENT_CLOCK, 2), (GROUPED, 3)])
def test_long_series_with_disorder_lateness_gaps_and_ticks(settings, seed):
    random_, account, now = random.Random(seed), Account(settings), T
    pools = [f"value {n}" for n in range(40)], list(range(5)), [True, False, 0.5, 2**60]
    for step in range(rounds(400)):
        now += random_.choice([0, 20, 300, 1_000, 1_000, 4_000, 30_000 if random_.random() < 0.1 else 100])
        if random_.random() < 0.2:
            account.all.advance(now)
            continue
        disorder = random_.choice([0, 0, 500, 15_000, 90_000])
        events = []
        for _ in range(random_.choice([1, 3, 60])):
            value = random_.choice(random_.choices(pools, (8, 2, 1))[0])
            one = {"v": value, "k2": random_.choice("pq")} | ({"w": random_.random() < 0.5} if step % 3 else {})
            time = None if random_.random() < 0.3 else now - random_.randrange(disorder + 1) + random_.randrange(3_000)
            events.append(Event(time=time, key=random_.choice("abcdefgh"), data=one))
        account.send(now, *events)
        if step % 9 == 0:
            for window in settings.windows:
                check(account, window.name)


def test_the_learned_way_counts_what_the_slow_one_does():
    settings, reader = NOW, ColumnReader(NOW.key, NOW.values)
    learned, slow = Account(settings), Account(settings)
    batches = [
        [{"v": "x"}],
        [{"v": "y", "w": 1}],
        [{"v": True}, {"v": 1}],
        [{"w": "z", "v": [1]}],
        [{"v": None}, {"v": 2.5}],
    ]
    for number, batch in enumerate([*batches, *batches], 1):
        events = [Event(key="a", data=one) for one in batch]
        slow.send(T + number, *events)
        learned.all.apply("t", len(slow.log), T + number, reader.read(b"\n".join(one.encode() for one in events)))
    assert learned.rows() == slow.rows()
    check(slow, "1m")
