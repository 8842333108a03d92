"""What a request may cost: columns, cells, conditions, values, scans and shapes."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import ModuleType

import gevent
import pytest

from hostile.attacks import bodies, cells, columns, conditions, scans, shapes
from hostile.calls import abandon, get
from pushsvc.broker.broker import Broker
from pushsvc.errors import Busy, PushError
from pushsvc.event import EventReader, Limits, parse
from pushsvc.event.conditions import parse_condition
from pushsvc.event.merge_patch import MERGE_PATCH
from pushsvc.web import corrections, events
from pushsvc.web.app import context_of, create_app
from pushsvc.web.context import Context
from pushsvc.web.long_requests import CLIENT, LongLimits, LongRequests, Requester, Seats
from pushsvc.web.memory.answer import GrowingAnswer
from support.stack import Stack
from support.turns import counted_turns
from support.waiting import turn_until, until
from support.web_app import client_of

NOW = 1_767_225_600_000  # 2026-01-01T00:00Z
URL = "/v1/topics/t/events"


@pytest.fixture
def context(broker: Broker) -> Context:
    """A context whose long requests pause at every step."""
    return replace(context_of(create_app(broker)), long=LongRequests(LongLimits(slice=0.0)))


def test_columns_are_bounded(shared_server: Stack) -> None:
    wide, long, quoted, many = columns.attack(shared_server.url, 110_000)
    for answer, words in [
        (wide, "more than 100000 commas"),
        (long, "more than 100000 commas"),
        (quoted, "more than 100000 commas"),
        (many, "5000 columns, at most 1000"),
    ]:
        assert answer.status == 400
        assert words in answer.json()["detail"]


def test_cells_of_a_table_are_bounded(shared_server: Stack) -> None:
    stored, table = cells.attack(shared_server.url, events=300)
    assert (stored.status, table.status) == (202, 400)
    assert "at most 1000000 cells, and 224 events have 4485 columns: ask for at most 223" in table.json()["detail"]
    page = get(shared_server.url, f"/v1/topics/{cells.TOPIC}/events?format=csv&limit=223")
    assert (page.status, page.body.count(b"\n")) == (200, 224)


def test_conditions_are_bounded(shared_server: Stack) -> None:
    refused, scanned = conditions.attack(shared_server.url, events=100)
    assert (refused.status, scanned.status) == (400, 200)
    assert refused.json()["detail"] == "where: 300 conditions, at most 20 are allowed"
    assert len(scanned.json()["events"]) == 100


def test_an_event_has_a_bounded_number_of_members() -> None:
    for count, faults in ((1_000, 0), (1_001, 1)):
        body = b"{%b}" % b",".join(b'"n%d":"x"' % name for name in range(count))
        assert len(parse(body, "application/json", now=NOW).faults) == faults


@pytest.mark.parametrize("query", ["where=a=2", "limit=10000", "limit=10000&format=csv", "limit=10000&format=ndjson"])
def test_a_scan_pauses_for_each_event(context: Context, query: str) -> None:
    client = client_of(events, context)
    assert client.post(URL, json=[{"a": 1}] * 1_000).status_code == 202
    begun = context.long.slices
    with counted_turns() as turns:
        assert client.get(f"{URL}?{query}").status_code == 200
    assert context.long.slices - begun >= 1_000
    assert turns[0] >= 1_000, "others had no turn of the loop"


def test_a_scan_ends_when_its_client_is_gone(context: Context) -> None:
    client = client_of(events, context)
    client.post(URL, json=[{"a": 1}] * 2_000)
    begun, asked = context.long.slices, 0

    def gone() -> bool:
        nonlocal asked
        asked += 1
        return asked > 10

    answer = client.get(URL, environ_overrides={CLIENT: Requester("10.0.0.1", gone)})
    assert answer.status_code == 499
    assert context.long.slices - begun <= 10
    assert context.long.readers.free == 2, "its seat is not free"


def test_scans_of_clients_that_went_away_are_not_made(shared_server: Stack) -> None:
    scans.fill(shared_server.url, scans.TOPIC, 20_000)
    before = shared_server.metric("pushsvc_long_requests_abandoned_total")
    for _ in range(20):
        abandon(shared_server.url, scans.SCAN)
    until(lambda: shared_server.metric("pushsvc_long_requests_abandoned_total") >= before + 10)
    assert get(shared_server.url, scans.SCAN).status == 200


def test_a_page_ends_at_the_bytes_of_an_answer(context: Context) -> None:
    context = replace(context, scan=replace(context.scan, answer=20_000))
    client = client_of(events, context)
    client.post(URL, json=[{"text": "x" * 1_000}] * 50)
    found, after = [], ""
    while after is not None:
        page = client.get(f"{URL}?{after and 'after=' + after}")
        assert len(page.data) < 22_000
        found += [event["$offset"] for event in page.json["events"]]
        after = page.json["next"]
    assert found == list(range(1, 51))


def taken(seats: Seats, address: str, order: list[str], name: str) -> gevent.Greenlet[..., None]:
    """Take a seat, note the name, and give the seat back."""

    def hold() -> None:
        with seats.seat(address):
            order.append(name)
            gevent.sleep(0)

    return gevent.spawn(hold)


@pytest.fixture
def full() -> Iterator[Seats]:
    """One seat, which is taken; at most four requests wait, three of an address."""
    seats = Seats(1, 4, 3)
    with seats.seat("first"):
        yield seats


def test_seats_are_given_by_turns_of_addresses() -> None:
    seats, order = Seats(1, 10, 10), []
    with seats.seat("first"):
        waiting = [taken(seats, name[0], order, name) for name in ("a1", "a2", "a3", "b1", "c1", "b2")]
        turn_until(lambda: seats.waiting == 6)
    gevent.joinall(waiting, raise_error=True)
    assert order == ["a1", "b1", "c1", "a2", "b2", "a3"]
    assert (seats.free, seats.waiting) == (1, 0)


def test_a_bounded_number_of_requests_waits(full: Seats) -> None:
    waiting = [taken(full, "a", [], "") for _ in range(3)]
    turn_until(lambda: full.waiting == 3)
    with pytest.raises(Busy), full.seat("a"):
        pass
    waiting.append(taken(full, "b", [], ""))
    turn_until(lambda: full.waiting == 4)
    with pytest.raises(Busy), full.seat("c"):
        pass
    gevent.killall(waiting)
    assert full.waiting == 0


def test_a_request_that_is_killed_passes_its_seat_on() -> None:
    seats, order = Seats(1, 10, 10), []
    with seats.seat("first"):
        waiting = [taken(seats, "a", order, name) for name in ("a1", "a2", "a3")]
        turn_until(lambda: seats.waiting == 3)
        waiting[0].kill(block=False)  # it ends after its turn has come, and before it runs
    gevent.joinall(waiting)
    assert order == ["a2", "a3"]
    assert (seats.free, seats.waiting) == (1, 0)


@pytest.mark.parametrize("number", range(len(bodies.bodies(100_000))))
def test_readers_of_costly_bodies_pause_between_bounded_steps(number: int) -> None:
    """A body that is read has a pause for each event, one that is refused names a limit or a place."""
    body, media_type = bodies.bodies(100_000)[number]
    limits = Limits(values=1_000, request_values=10_000)
    pauses = 0

    def pause() -> None:
        nonlocal pauses
        pauses += 1

    refused = ""
    try:
        parsed = EventReader(limits).read("t", body, media_type, now=NOW, pause=pause)
    except PushError as error:
        refused = error.detail
    if refused:
        assert "more than" in refused or refused.startswith("line")
    else:
        assert pauses >= parsed.batch.count


def test_a_long_list_of_values_is_not_compared_value_by_value() -> None:
    """``dish=in(…)`` compared each event with up to 100 values: 800 bytes cost 2 s of 100,000 events."""
    compared = 0

    class Dish(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

    holds = parse_condition(f"dish=in({','.join(f'd{number}' for number in range(100))})")
    assert holds({"dish": Dish("d99")})
    assert not holds({"dish": Dish("d100")})
    assert compared <= 2
    numbers = parse_condition("n=in(1,2.0,true)")
    assert [numbers({"n": value}) for value in (1.0, 2, True, False, "1", [1], {}, None)] == [True] * 3 + [False] * 5


def test_the_digest_of_a_large_body_is_made_in_slices(context: Context) -> None:
    client = client_of(events, context)
    event = b'{"note":"%b"}' % (b"x" * 6_000_000)
    slices = []
    for headers in ({}, {"Idempotency-Key": "once"}):
        begun = context.long.slices
        answer = client.post(URL, data=event, content_type="application/json", headers=headers)
        assert answer.status_code == 202
        slices.append(context.long.slices - begun)
    assert slices[1] >= slices[0] + 6


def test_a_large_event_is_corrected_in_steps(context: Context) -> None:
    client_of(events, context).post(URL, json={"id": "large", "note": "x" * 1_000_000})
    client, begun = client_of(corrections, context), context.long.slices
    assert client.patch(f"{URL}/large", data=b'{"n":1}', content_type=MERGE_PATCH).status_code == 200
    assert context.long.slices - begun >= 5
    begun = context.long.slices
    assert client.get(f"{URL}/large").status_code == 200
    assert context.long.slices - begun >= 2


@pytest.mark.parametrize("text", ["a", '\\"', "\\u00e9"])
@pytest.mark.parametrize("count", [1, 8])
def test_long_texts_are_decoded_again_in_bounded_steps(text: str, count: int) -> None:
    """A body of few values, but 8 MB, that the fast decoder refused was read by the slow one as a whole: 65 ms."""
    event = b'{"note":"%b","rating":1e999}' % (text.encode() * 100_000)
    steps: list[str] = []
    body = b"[" + b",".join([event] * count) + b"]"
    parsed = EventReader().read("t", body, "application/json", now=NOW, pause=lambda: steps.append("pause"))
    assert (parsed.rejected, parsed.faults[0].field) == (count, "rating")
    assert len(steps) >= 4 * count  # before and after each decoder


def test_events_that_nest_are_not_kept_as_objects() -> None:
    """10,000 events that nest 20 times were 800,000 objects, and the garbage collector looked at all in one step."""
    line = b'{"a":[%b],"text":"%b"}' % (b",".join([b"[[1]]"] * 40), b"x" * 300)
    most, known, steps = 0, len(gc.get_objects()), 0

    def pause() -> None:
        nonlocal most, steps
        steps += 1
        if steps % 500 == 0:
            most = max(most, len(gc.get_objects()) - known)

    parsed = EventReader().read("t", b"\n".join([line] * 4_000), "application/x-ndjson", now=NOW, pause=pause)
    assert parsed.batch.count == 4_000
    assert steps >= 4_000
    assert most < 20_000, "of 324,000 lists"


def test_one_broken_event_of_a_large_array_is_named() -> None:
    body = b"[" + bodies.EVENT * 9_000 + b'{"a":NaN},\n{"b":2}]'
    parsed = parse(body, "application/json", now=NOW)
    assert (len(parsed.events), parsed.rejected) == (9_001, 1)
    assert (parsed.faults[0].line, parsed.faults[0].field) == (9_001, "a")


def test_a_large_array_that_is_not_json_is_refused_where_it_breaks() -> None:
    for end, line, words in [
        (b'\n{"a" 2}]', 2, "at column 6: unexpected character"),
        (b"\n{}", 2, "unexpected end of data"),
        (b"{}]\n]", 1, "text after the end"),
    ]:
        with pytest.raises(PushError) as refused:
            parse(b"[" + bodies.EVENT * 9_000 + end, "application/json", now=NOW)
        assert refused.value.detail.startswith(f"line {line}: ")
        assert words in refused.value.detail


def test_a_shape_holds_few_bytes() -> None:
    """Types that nest seven levels took 0.4 MB for 32 fields, and a thousand shapes were kept."""
    reader = EventReader()
    reader.read("warm", shapes.body(0), "application/x-ndjson", now=NOW)
    reader.read("warm", b"{}", "application/json", now=NOW)
    tracemalloc.start()
    for shape in range(10):
        reader.read(f"t{shape}", shapes.body(shape + 1), "application/x-ndjson", now=NOW)
        reader.read(f"t{shape}", b"{}", "application/json", now=NOW)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 10 * 100_000


@pytest.mark.parametrize("attack", [bodies, cells, columns, conditions, scans, shapes])
def test_every_attack_has_a_name_of_its_own(attack: ModuleType) -> None:
    assert len(attack.NAME) <= 28  # a column of the runner's table


@pytest.mark.parametrize("form", ["json", "ndjson", "csv"])
def test_a_page_is_joined_in_slices(context: Context, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    """It was joined in one step, and twice: 16 MB took 50 MB and 20 to 100 ms."""
    client = client_of(events, context)
    assert client.post(URL, json=[{"a": 1}] * 1_000).status_code == 202
    added: list[int] = []
    monkeypatch.setattr(GrowingAnswer, "add", record(GrowingAnswer.add, added))
    answer = client.get(f"{URL}?limit=1000&format={form}")
    assert answer.status_code == 200
    assert sum(added) == len(answer.data)
    assert len(added) >= 1_000 // 64
    assert max(added) <= len(answer.data) // 10


def record(add: Callable[[GrowingAnswer, bytes], None], sizes: list[int]) -> Callable[[GrowingAnswer, bytes], None]:
    def recording(answer: GrowingAnswer, data: bytes) -> None:
        sizes.append(len(data))
        add(answer, data)

    return recording
