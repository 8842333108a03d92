"""What handlers may do, and what becomes of it: without Redis and without processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import orjson
import pytest

from pushsvc.components.context import MOST_EMITS, MOST_STATE_BYTES, Context, HandledEvent
from pushsvc.components.executor import Executor
from pushsvc.components.messages import Done, Entry, Parked, Run, Timer
from pushsvc.components.parked import ParkedEvents
from pushsvc.components.registry import Components
from pushsvc.errors import InvalidTopic
from pushsvc.event import Event


def entry(*events: dict[str, Any], topic: str = "t", first: int = 1, after: int = 0) -> Entry:
    lines = [Event(key=event.pop("key", None), type=event.pop("type", "message"), data=event) for event in events]
    return Entry(topic, first, after, 1_000, b"\n".join(line.encode() for line in lines))


def run(executor: Executor, *entries: Entry, **given: Any) -> Done:
    """Let a group ``g`` handle entries; there are no states in Redis."""
    members: dict[str, Any] = {
        "parked": [], "due": [], "gaps": [], "held": {}, "parks": 100, "timers": 10, **given
    }  # fmt: skip
    request = Run(group="g", partition=1, now=5_000, entries=list(entries), **members)
    return executor.run(request, lambda _topic, keys: [None] * len(keys))


def executor_of(*handlers: Callable[[HandledEvent, Context], None], **options: Any) -> Executor:
    on = Components()
    for handler in handlers:
        on("t", group="g", **options)(handler)
    return Executor(on)


def failing(event: HandledEvent, ctx: Context) -> None:
    ctx.state["n"] = event["n"]
    ctx.emit("out", {"n": event["n"]})
    if event["n"] < 0:
        raise RuntimeError("negative")


def test_nothing_that_a_failed_event_did_takes_effect() -> None:
    done = run(executor_of(failing), entry({"n": 1, "key": "a"}, {"n": -1, "key": "a"}, {"n": 2, "key": "b"}))
    assert done.states == {"t": {"a": b'{"n":1}', "b": b'{"n":2}'}}
    assert [orjson.loads(one.line) for one in done.emitted] == [{"n": 1}, {"n": 2}]
    (parked,) = done.parked
    assert (parked.offset, parked.key, parked.attempts, parked.due) == (2, "a", 1, 6_000)
    assert parked.reason == "RuntimeError: negative"
    assert done.positions == {"t": 3}


def test_later_events_of_a_failed_key_wait_and_those_without_a_key_do_not() -> None:
    events = [{"n": -1, "key": "a"}, {"n": 1, "key": "a"}, {"n": -1}, {"n": 2}]
    done = run(executor_of(failing), entry(*events))
    assert [(one.offset, one.attempts) for one in done.parked] == [(1, 1), (2, 0), (3, 1)]
    assert [orjson.loads(one.line)["n"] for one in done.emitted] == [2]
    done = run(executor_of(failing), entry({"n": 5, "key": "b"}), held={"t": ["b"]})
    assert (done.handled, done.parked[0].attempts) == (0, 0)


def test_pauses_double_and_then_the_event_is_dead() -> None:
    executor = executor_of(failing, retries=3, backoff=2)
    event = Parked("t", 7, 1_000, b'{"n":-1}')
    pauses = []
    while (done := run(executor, parked=[event])).failed is not None:
        event = done.failed
        pauses.append(event.due - 5_000)
    assert pauses == [2_000, 4_000, 8_000]
    (dead,) = done.emitted
    found = orjson.loads(dead.line)
    assert (dead.topic, found["attempts"], found["offset"], found["event"]) == ("t.dead", 4, 7, {"n": -1})
    assert (done.retried, done.dead) == (1, 1)


def test_handlers_of_a_group_are_one_unit() -> None:
    def first(event: HandledEvent, ctx: Context) -> None:
        ctx.emit("out", {"first": event["n"]})
        ctx.state["n"] = 1

    done = run(executor_of(first, failing), entry({"n": 3}, {"n": -3}))
    assert [orjson.loads(one.line) for one in done.emitted] == [{"first": 3}, {"n": 3}]
    assert done.states == {"t": {"": b'{"n":3}'}}


def test_a_part_of_an_entry_is_not_new() -> None:
    done = run(executor_of(failing), entry({"n": 1}, {"n": 2}, {"n": 3}, first=10, after=11))
    assert [orjson.loads(one.line)["n"] for one in done.emitted] == [3]
    assert done.positions == {"t": 12}


def test_a_turn_ends_when_no_more_events_may_be_parked() -> None:
    done = run(executor_of(failing), entry(*({"n": -1} for _ in range(9))), parks=3)
    assert (len(done.parked), done.positions) == (3, {"t": 3})


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (lambda ctx: ctx.emit("a b", {}), "not a topic"),
        (lambda ctx: ctx.emit("t.dead", {}), "only the server"),
        (lambda ctx: ctx.emit("alerts", {}), "only the server"),
        (lambda ctx: ctx.emit("out", {"$x": 1}), "reserved"),
        (lambda ctx: ctx.emit("out", {"x": object()}), "not JSON"),
        (lambda ctx: ctx.emit("out", {1: 1}), ""),
        (lambda ctx: ctx.emit("out", {"n": 2**70}), "64 bits"),
        (lambda ctx: [ctx.emit("out", {}) for _ in range(MOST_EMITS + 1)], "more than 100"),
        (lambda ctx: [ctx.emit("out", {"x": "x" * 600_000}) for _ in range(2)], "1000000 bytes"),
        (lambda ctx: ctx.state.update(x="x" * MOST_STATE_BYTES), "at most 65536"),
        (lambda ctx: ctx.state.update(x=object()), "cannot be stored"),
        (lambda ctx: ctx.call_later(1, print), "not registered"),
    ],
)
def test_what_breaks_a_bound_fails_the_event(act: Callable[[Context], Any], reason: str) -> None:
    def handle(_event: HandledEvent, ctx: Context) -> None:
        act(ctx)

    done = run(executor_of(handle), entry({"key": "a"}))
    (parked,) = done.parked
    assert reason in parked.reason
    assert (done.emitted, done.states) == ([], {})


def test_timers_are_set_replaced_and_bounded() -> None:
    on = Components()

    @on.timer
    def later(ctx: Context, n: int) -> None:
        ctx.emit("out", {"n": n})
        if n == 1:
            ctx.call_later(1, later, n=2)

    @on("t", group="g")
    def handle(event: HandledEvent, ctx: Context) -> None:
        ctx.call_later(event["wait"], later, name=event.get("name"), n=1)

    executor = Executor(on)
    done = run(executor, entry({"wait": 1, "key": "a"}, {"wait": 2, "key": "a"}, {"wait": 3, "name": "x"}))
    (one, other) = [timer for timer in done.timers.values() if timer is not None]
    assert [(one.key, one.due), (other.name, other.due)] == [("a", 7_000), ("x", 8_000)]
    done = run(executor, due=[one])
    assert (done.timers_done, [timer.data if timer else None for timer in done.timers.values()]) == (1, [{"n": 2}])
    done = run(executor, *(entry({"wait": 1, "key": f"k{n}"}, first=n + 1) for n in range(4)), timers=2)
    assert (len(done.timers), len(done.parked)) == (2, 2)
    assert "as many timers" in done.parked[0].reason


def test_a_timer_whose_function_is_gone_fails() -> None:
    timer = Timer("t", "a", "gone", 1, "gone", {})
    done = run(executor_of(failing), due=[timer])
    assert [found.attempts for found in done.timers.values() if found] == [1]


def test_an_event_fails_that_would_add_a_state_too_many() -> None:
    def handle(event: HandledEvent, ctx: Context) -> None:
        ctx.state.clear()
        if event["n"]:
            ctx.state["n"] = event["n"]

    events = [{"n": 1, "key": "a"}, {"n": 1, "key": "b"}, {"n": 2, "key": "a"}, {"n": 0, "key": "a"}]
    executor = executor_of(handle, max_states=3)
    done = run(executor, entry(*events, {"n": 1, "key": "c"}), states={"t": 2})
    (parked,) = done.parked
    assert (parked.key, parked.reason) == ("b", "ValueError: 3 keys of t have a state, and max_states allows no more")
    assert done.states == {"t": {"a": b"", "c": b'{"n":1}'}}
    assert (done.new_states, done.refused_states) == ({"t": 1}, {"t": 1})


def test_types_without_a_handler_are_counted() -> None:
    done = run(executor_of(failing, type="known"), entry({"type": "a"}, {"type": "b"}, {"type": "a"}))
    assert (done.unknown, done.handled, done.positions) == ({"t": {"a": 2, "b": 1}}, 0, {"t": 3})


def test_states_are_asked_for_once_and_after_they_were_forgotten() -> None:
    asked: list[list[str]] = []

    def fetch(_topic: str, keys: list[str]) -> Sequence[bytes | None]:
        asked.append(keys)
        return [b'{"n":7}'] * len(keys)

    seen: list[int] = []

    def handle(_event: HandledEvent, ctx: Context) -> None:
        seen.append(ctx.state["n"])

    executor = executor_of(handle)
    request = Run("g", 1, 1, [], [], [], [entry({"key": "a"}), entry({"key": "b"}, {"key": "c"}, first=2)], {}, 9, 9)
    for _ in range(2):
        executor.run(request, fetch)
    assert asked == [["a"], ["b", "c"]]
    executor.forget("g", 1)
    executor.run(request, fetch)
    assert asked[2:] == [["a"], ["b", "c"]]
    assert seen == [7] * 9


def test_registration_is_checked() -> None:
    on = Components()
    for arguments, options in (
        ((), {}), (("a b",), {}), (("t",), {"group": "a:b"}), (("t",), {"retries": -1}), (("t",), {"timeout": 0}),
        (("t",), {"start": "now"}),
    ):  # fmt: skip
        with pytest.raises((ValueError, InvalidTopic)):
            on(*arguments, **options)(failing)
    with pytest.raises(ValueError, match="no method handle"):
        on("t")(type("Empty", (), {}))
    on("t", group="one", retries=1)(failing)
    with pytest.raises(ValueError, match="two values of retries"):
        on("t", group="one", retries=2)(failing)
    on.gap("t", group="two")(failing)
    with pytest.raises(ValueError, match="no handler"):
        on.check()


def test_parked_events_wait_for_the_first_of_their_key() -> None:
    parked = ParkedEvents([Parked("t", 2, 0, b"{}", key="a"), Parked("t", 1, 0, b"{}", 1, 900, key="a")])
    parked.put(Parked("t", 3, 0, b"{}", 1, 500))
    assert parked.held() == {"t": ["a"]}
    assert (parked.due(400, 9), parked.next_due(), parked.count) == ([], 500, 3)
    (alone,) = parked.due(600, 9)
    parked.remove(alone)
    assert [event.offset for event in parked.due(900, 9)] == [1, 2]
    parked.put(Parked("t", 1, 0, b"{}", 2, 2_000, key="a"))
    assert (parked.due(1_000, 9), parked.count) == ([], 2)
