"""Components in real workers on a real Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.waiting import until

if TYPE_CHECKING:
    from conftest import Site


def test_handlers_get_the_events_of_their_topics_and_types(site: Site) -> None:
    site.app("""
        @on("orders.*", type="created", group="billing", start="beginning")
        def bill(event, ctx):
            ctx.emit("bills", {"order": event["order"], "topic": event.topic, "key": event.key})
    """)
    site.publish("orders.eu", {"order": 1}, {"order": 2}, key="u1", type="created")
    site.publish("orders.eu", {"order": 9}, type="cancelled")
    site.publish("other", {"order": 9}, type="created")
    site.work()
    until(lambda: len(site.events("bills")) == 2)
    site.publish("orders.us", {"order": 3}, type="created")
    until(lambda: len(site.events("bills")) == 3)
    found = [(event.data["order"], event.data["topic"], event.key) for event in site.events("bills")]
    assert found == [(1, "orders.eu", "u1"), (2, "orders.eu", "u1"), (3, "orders.us", None)]
    overview = site.broker.components.overview("billing", range(64))
    assert [one["unknown"] for one in overview if one["unknown"]] == [{"orders.eu cancelled": 1}]


def test_a_new_group_begins_with_new_events(site: Site) -> None:
    site.app("""
        @on("orders")
        def copy(event, ctx):
            ctx.emit("copies", {"n": event["n"]})
    """)
    site.publish("orders", {"n": 1})
    site.work()
    site.begin("copy")
    site.stack.stop("worker")
    site.publish("orders", {"n": 2})
    site.work()
    until(lambda: site.events("copies"))
    assert [event.data["n"] for event in site.events("copies")] == [2]


def test_state_is_kept_per_key_over_restarts(site: Site) -> None:
    site.app("""
        @on("clicks", start="beginning")
        def count(event, ctx):
            ctx.state["n"] = ctx.state.get("n", 0) + 1
            ctx.emit("counts", {"key": event.key, "n": ctx.state["n"]})
    """)
    for turn in range(3):
        site.work()
        for key in "ab":
            site.publish("clicks", {}, {}, key=key)
        until(lambda turn=turn: len(site.events("counts")) == 4 * (turn + 1))
        site.stack.stop("worker")
    for key in "ab":
        assert [event.data["n"] for event in site.events("counts") if event.key == key] == [1, 2, 3, 4, 5, 6]


def test_a_failing_event_holds_back_its_key_alone_and_is_retried(site: Site) -> None:
    site.app("""
        @on("jobs", start="beginning", retries=20, backoff=0.05)
        def work(event, ctx):
            if event.get("wait") and not os.path.exists("open"):
                raise RuntimeError("closed")
            ctx.emit("done", {"key": event.key, "n": event["n"]})
    """)
    site.work()
    site.publish("jobs", {"n": 1, "wait": True}, key="a")
    site.publish("jobs", {"n": 2}, key="a")
    site.publish("jobs", {"n": 3}, key="b")
    until(lambda: [event.data["n"] for event in site.events("done")] == [3])
    (site._folder / "open").touch()
    until(lambda: len(site.events("done")) == 3)
    assert [event.data["n"] for event in site.events("done")] == [3, 1, 2]
    until(lambda: not any(one["parked"] for one in site.broker.components.overview("work", range(64))))


def test_an_event_that_fails_too_often_goes_to_the_dead_topic(site: Site) -> None:
    site.app("""
        @on(">", group="work", start="beginning", retries=1, backoff=0.01)
        def work(event, ctx):
            ctx.state["n"] = ctx.state.get("n", 0) + 1
            ctx.emit("done.x", {"n": event["n"], "seen": ctx.state["n"]}) if event.topic == "jobs" else None
            if event.get("n") == 1:
                raise RuntimeError("bad event")
    """)
    site.work()
    site.publish("jobs", {"n": 1}, {"n": 2}, key="a")
    until(lambda: site.events("done.x"))
    (dead,) = until(lambda: site.events("jobs.dead"))
    assert (dead.type, dead.key) == ("dead", "a")
    assert (dead.data["topic"], dead.data["offset"], dead.data["group"], dead.data["attempts"]) == (
        "jobs",
        1,
        "work",
        2,
    )
    assert dead.data["reason"] == "RuntimeError: bad event"
    assert "in work" in dead.data["traceback"]
    assert dead.data["event"] == {"key": "a", "n": 1}
    assert [event.data for event in site.events("done.x")] == [{"n": 2, "seen": 1}]


def test_a_handler_that_ends_or_blocks_its_process_takes_no_other_event_with_it(site: Site) -> None:
    site.app("""
        @on("jobs", start="beginning", retries=0, timeout=0.1)
        def work(event, ctx):
            if event["n"] == 2:
                os._exit(3)
            if event["n"] == 4:
                time.sleep(100)
            ctx.emit("done", {"n": event["n"]})
    """)
    site.publish("jobs", *({"n": n} for n in range(6)))
    site.work()
    until(lambda: len(site.events("done")) == 4 and len(site.events("jobs.dead")) == 2)
    assert sorted(event.data["n"] for event in site.events("done")) == [0, 1, 3, 5]
    assert "code 3" in site.events("jobs.dead")[0].data["reason"]
    assert "within" in site.events("jobs.dead")[1].data["reason"]
