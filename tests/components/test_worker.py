"""Components in real workers on a real Redis."""

from __future__ import annotations

from typing import Any
from urllib.request import urlopen

from pushsvc.components.outcomes import outcomes
from pushsvc.event import Event
from pushsvc.settings import TopicSettings
from support.components import Site
from support.ports import free_port
from support.waiting import DEADLINE, until


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
    parked, behind, done, waiting = (outcomes(site.broker, "jobs", offset)[0] for offset in range(1, 5))
    assert (parked["outcome"], parked["attempts"] > 0) == ("parked", True)
    assert [behind, done, waiting] == [
        {"group": "work", "outcome": "parked", "attempts": 0},
        {"group": "work", "outcome": "done"},
        {"group": "work", "outcome": "waiting"},
    ]
    (site.folder / "open").touch()
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
    assert "work: jobs 1 failed at attempt 2\nTraceback" in site.stack.output("worker")


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


def test_a_worker_whose_handlers_are_killed_while_they_start_starts_again(site: Site) -> None:
    site.app("""
        if not os.path.exists("killed"):
            open("killed", "w").close()
            os.kill(os.getpid(), signal.SIGKILL)

        @on("jobs", start="beginning")
        def work(event, ctx):
            ctx.emit("done", {})
    """)
    site.publish("jobs", {})
    site.work()
    until(lambda: site.events("done"))
    output = site.stack.output("worker")
    assert "the process of the handlers ended with code -9" in output
    assert "cannot run" not in output


def test_timers_survive_a_restart_and_may_be_replaced_and_cancelled(site: Site) -> None:
    site.app("""
        @on("carts", start="beginning")
        def cart(event, ctx):
            if event.get("paid"):
                ctx.cancel(remind)
            else:
                ctx.call_later(event["wait"], remind, n=event["n"])

        @on.timer
        def remind(ctx, n):
            ctx.state["reminded"] = ctx.state.get("reminded", 0) + 1
            ctx.emit("reminders", {"key": ctx.key, "n": n, "times": ctx.state["reminded"]})
    """)
    site.work()
    site.publish("carts", {"n": 1, "wait": 3_000}, {"n": 2, "wait": 2}, key="replaced")
    site.publish("carts", {"n": 3, "wait": 3_000}, {"paid": True}, key="cancelled")
    site.publish("carts", {"n": 4, "wait": 2}, key="late")
    overview = site.broker.components.overview
    # On a busy machine they may be called before they are seen to wait.
    until(lambda: sum(one["timers"] for one in overview("cart", range(64))) == 2 or len(site.events("reminders")) == 2)
    site.stack.stop("worker")
    site.work()
    until(lambda: len(site.events("reminders")) == 2)
    assert sorted((event.key, event.data["n"]) for event in site.events("reminders")) == [("late", 4), ("replaced", 2)]
    site.publish("carts", {"n": 5, "wait": 0}, key="late")
    until(lambda: len(site.events("reminders")) == 3)
    assert (site.events("reminders")[-1].key, site.events("reminders")[-1].data["times"]) == ("late", 2)


def test_a_timer_that_fails_is_tried_again_then_given_up(site: Site) -> None:
    site.app("""
        @on("carts", start="beginning", retries=2, backoff=0.01)
        def cart(event, ctx):
            ctx.call_later(0, remind, n=event["n"])

        @on.timer
        def remind(ctx, n):
            if ctx.attempt <= n:
                raise RuntimeError("not yet")
            ctx.emit("reminders", {"n": n})
    """)
    site.work()
    site.publish("carts", {"n": 1}, key="a")
    site.publish("carts", {"n": 9}, key="b")
    until(lambda: site.events("reminders") and site.events("carts.dead"))
    (dead,) = site.events("carts.dead")
    assert (dead.key, dead.data["attempts"], dead.data["timer"]["data"]) == ("b", 3, {"n": 9})


def test_replies_go_to_declared_topics_alone(site: Site) -> None:
    site.app("""
        @on("questions", start="beginning", replies="support.user.>")
        def answer(event, ctx):
            ctx.emit("log", {"n": event["n"], "sent": ctx.reply({"text": "hello"})})
    """)
    site.work()
    for n, topic in enumerate(
        ["support.user.u1", "orders", "support.user", "support.user.>", "support.user.x.dead", 7]
    ):
        site.publish("questions", {"n": n, "reply_to": topic})
    site.publish("questions", {"n": 6})
    until(lambda: len(site.events("log")) == 7)
    assert [event.data["sent"] for event in site.events("log")] == [True, False, False, False, False, False, False]
    until(lambda: site.events("support.user.u1"))
    assert not site.events("orders")


def test_keys_with_state_are_bounded_and_counted_over_restarts(site: Site) -> None:
    port = free_port()
    site.app("""
        @on("clicks", group="all", start="beginning", retries=0, max_states=2)
        def handle(event, ctx):
            ctx.state["n"] = ctx.state.get("n", 0) + 1 if event["keep"] else 0
            if not event["keep"]:
                ctx.state.clear()
            ctx.emit("handled", {"key": event.key})
    """)
    for key in "abc":
        site.publish("clicks", {"keep": True}, key=key)
    site.work("first")
    until(lambda: len(site.events("clicks.dead")) == 1)
    site.stack.stop("first")
    assert site.run("status")["all"]["states"] == 2
    site.work("second", "--metrics-port", str(port))
    site.publish("clicks", {"keep": True}, key="d")
    until(lambda: len(site.events("clicks.dead")) == 2)
    site.publish("clicks", {"keep": False}, key="a")
    site.publish("clicks", {"keep": True}, key="d")
    until(lambda: len(site.events("handled")) == 4)
    assert [event.key for event in site.events("clicks.dead")] == ["c", "d"]
    for name in ("first", "second"):
        assert site.stack.output(name).count("group all: 2 keys of clicks have a state, and max_states") == 1

    def metrics() -> str:
        with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            return str(answer.read().decode())

    for line in ('states{group="all"} 2.0', 'refused_states_total{group="all"} 1.0'):
        until(lambda line=line: f"pushsvc_component_{line}" in metrics())


def test_an_emitted_event_that_its_log_refuses_is_a_dead_event(site: Site) -> None:
    site.stack.configure('[topics.metered]\nwindows = ["1m"]\nclock = "event"\n[topics.">"]\nwindows = []\n')
    site.app("""
        @on("numbers", group="all", start="beginning")
        def handle(event, ctx):
            for n, time in enumerate(event["times"]):
                ctx.emit("metered", {"key": "k", "time": time, "n": n})
            ctx.emit("handled", {})
    """)
    site.publish("numbers", {"times": ["2020-01-01T00:00:00Z"]})
    site.work()
    until(lambda: site.events("handled"))
    near, far = "2020-01-01T00:00:30Z", "2020-02-01T00:00:00Z"
    site.publish("numbers", {"times": [far, near, far, near]})
    until(lambda: len(site.events("metered.dead")) == 2)
    assert [event.data["n"] for event in site.events("metered")] == [0, 1, 3]
    for n, dead in zip((0, 2), site.events("metered.dead"), strict=True):
        assert (dead.type, dead.key, dead.data["topic"], dead.data["group"]) == ("dead", "k", "metered", "all")
        assert "ahead of the topic's event clock" in dead.data["reason"]
        assert dead.data["emitted"]["n"] == n
    until(lambda: len(site.events("handled")) == 2)
    assert site.run("status")["all"]["dead"] == 2
    assert site.run("replay", "metered.dead")["skipped"] == 2


def test_groups_are_listed_with_what_they_did(site: Site) -> None:
    site.app("""
        @on("orders.*", group="all", start="beginning", retries=20, backoff=0.2)
        @on("other", group="other", start="beginning")
        def handle(event, ctx):
            ctx.state["n"] = event["n"]
            if event["n"] < 0:
                raise RuntimeError
    """)
    site.stack.start_web()
    site.publish("orders.a", {"n": 1}, {"n": -2}, {"n": 3}, key="a")
    site.publish("orders.b", {"n": 4}, key="a")
    site.work()

    def groups(query: str) -> Any:
        return site.stack.get(f"/v1/components{query}").json()["groups"]

    shown = {"topic": "orders.a", "offset": 3, "lag": 0, "parked": 2, "states": 1, "unknown_types": {}}
    other = {"topic": "orders.b", "offset": 1, "lag": 0, "parked": 0, "states": 1, "unknown_types": {}}
    until(lambda: [one["topics"] for one in groups("")] == [[shown, other]])
    (group,) = groups("?topic=orders.a")
    failures = group["totals"].pop("failures")
    assert failures > 0
    assert group == {
        "group": "all",
        "totals": {"parked": 2, "timers": 0, "handled": 2, "dead": 0, "trimmed": 0},
        "topics": [shown],
    }
    assert groups("?topic=nothing") == []
    assert site.stack.get("/v1/components?topic=orders.*").status == 400
    site.stack.stop("worker")
    site.publish("orders.b", {"n": 5}, {"n": 6}, key="a")
    (group,) = groups("?topic=orders.b")
    assert group["topics"] == [other | {"lag": 2}]


def test_the_worker_works_when_it_holds_leases(site: Site) -> None:
    site.app("""
        time.sleep(0.5)

        @on("numbers", group="all")
        def handle(event, ctx):
            pass
    """)
    site.work()
    assert all(one["begun"] for one in site.broker.components.overview("all", range(64)))


def test_trimmed_events_are_counted_and_reported(site: Site) -> None:
    site.app("""
        @on("numbers", group="all", start="beginning")
        def handle(event, ctx):
            ctx.emit("handled", {"n": event["n"]})

        @on.gap("numbers", group="all")
        def lost(gap, ctx):
            ctx.emit("lost", {"topic": gap.topic, "first": gap.first, "last": gap.last, "count": gap.count})
    """)
    site.publish("numbers", {"n": 1})
    site.work()
    until(lambda: site.events("handled"))
    site.stack.stop("worker")
    short = TopicSettings(windows=(), retention=2)
    for n in range(2, 7):
        site.broker.publish("numbers", [Event(data={"n": n})], short)
    first = site.events("numbers")[0].data["n"]
    assert first > 2
    site.work()
    until(lambda: len(site.events("handled")) == 1 + 7 - first)
    assert [event.data for event in site.events("lost")] == [
        {"topic": "numbers", "first": 2, "last": first - 1, "count": first - 2}
    ]
    assert sum(one["trimmed"] for one in site.broker.components.overview("all", range(64))) == first - 2


def test_a_topic_that_was_deleted_begins_anew_without_its_states(site: Site) -> None:
    site.app("""
        @on("clicks", start="beginning")
        class Count:
            def handle(self, event, ctx):
                ctx.state["n"] = ctx.state.get("n", 0) + 1
                ctx.emit("counts", {"n": ctx.state["n"]})
    """)
    site.work()
    for turn in range(3):
        site.publish("clicks", {}, {}, key="a")
        until(lambda turn=turn: len(site.events("counts")) == 2 * turn + 2)
        site.broker.delete("clicks")
    assert [event.data["n"] for event in site.events("counts")] == [1, 2] * 3


def test_two_workers_share_the_partitions_and_a_slow_handler_keeps_its_own(site: Site) -> None:
    site.app("""
        @on("jobs.*", group="work", start="beginning")
        def work(event, ctx):
            time.sleep(event["seconds"])
            ctx.emit("done", {"worker": os.getppid(), "topic": event.topic})
    """)
    site.work("one")
    site.begin("work")
    site.publish("jobs.slow", {"seconds": 8})  # longer than a lease
    for number in range(40):
        site.publish(f"jobs.n{number}", {"seconds": 0})
    site.work("two")
    until(lambda: len(site.events("done")) == 41)
    published = ["jobs.slow", *(f"jobs.n{number}" for number in range(40))]

    def both_have_worked() -> bool:
        published.append(f"jobs.n{len(published)}")
        site.publish(published[-1], {"seconds": 0})
        until(lambda: len(site.events("done")) == len(published))
        return len({event.data["worker"] for event in site.events("done")}) == 2

    until(both_have_worked)
    assert sorted(event.data["topic"] for event in site.events("done")) == sorted(published)


def test_a_module_that_cannot_be_loaded_ends_the_command(site: Site) -> None:
    for text, reason in (("raise RuntimeError('broken')", "RuntimeError: broken"), ("", "registers no handler")):
        site.app(text)
        worker = site.stack.start("worker", "worker", "--app", "app")
        assert worker.wait(DEADLINE) == 1
        assert reason in site.stack.output("worker")


def test_a_changed_module_is_loaded_again(site: Site) -> None:
    app = """
        @on("numbers", group="all", start="beginning")
        def handle(event, ctx):
            ctx.emit("handled", {"version": VERSION})
    """
    site.app(app.replace("VERSION", "1"))
    site.work("worker", "--reload")
    site.publish("numbers", {})
    until(lambda: [event.data["version"] for event in site.events("handled")] == [1])
    site.app("syntax error")
    until(lambda: "SyntaxError" in site.stack.output("worker"))
    site.publish("numbers", {})
    site.app(app.replace("VERSION", "2"))
    until(lambda: [event.data["version"] for event in site.events("handled")] == [1, 2])


def test_metrics_count_what_handlers_do(site: Site) -> None:
    port = free_port()
    site.app("""
        @on("numbers", group="all", start="beginning", retries=0)
        def handle(event, ctx):
            if event["n"] == 1:
                raise RuntimeError
            ctx.emit("handled", {})
    """)
    site.publish("numbers", {"n": 1}, {"n": 2}, {"n": 3})
    site.work("worker", "--metrics-port", str(port))
    until(lambda: len(site.events("handled")) == 2)

    def metrics() -> str:
        with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            return str(answer.read().decode())

    until(lambda: 'pushsvc_component_emitted_total{group="all"} 3.0' in metrics())
    for line in (
        "events_total{group=~} 2.0", "failures_total{group=~} 1.0", "dead_total{group=~} 1.0", "lag{group=~} 0.0",
    ):  # fmt: skip
        until(lambda line=line: "pushsvc_component_" + line.replace("~", '"all"') in metrics())


def test_dead_events_are_replayed_once_unless_asked_for_again(site: Site) -> None:
    site.app("""
        @on("jobs", group="work", start="beginning", retries=0)
        def work(event, ctx):
            if not os.path.exists("open"):
                raise RuntimeError("closed")
            ctx.state["seen"] = ctx.state.get("seen", 0) + 1
            ctx.emit("done", {"n": event["n"], "seen": ctx.state["seen"], "offset": event.offset})
    """)
    site.work()
    site.publish("jobs", {"n": 1}, {"n": 2}, key="a")
    until(lambda: len(site.events("jobs.dead")) == 2)
    (site.folder / "open").touch()
    assert site.run("replay", "jobs.dead", "--group", "other") == {
        "replayed": 0, "before": 0, "skipped": 2, "waiting": False
    }  # fmt: skip
    assert site.run("replay", "jobs.dead")["replayed"] == 2
    until(lambda: len(site.events("done")) == 2)
    assert [event.data for event in site.events("done")] == [
        {"n": 1, "seen": 1, "offset": 1}, {"n": 2, "seen": 2, "offset": 2}
    ]  # fmt: skip
    assert site.run("replay", "jobs.dead") == {"replayed": 0, "before": 2, "skipped": 0, "waiting": False}
    assert site.run("replay", "jobs.dead", "--again")["replayed"] == 2
    until(lambda: len(site.events("done")) == 4)
    status = site.run("status")["work"]
    assert (status["lag"], status["parked"], status["dead"]) == (0, 0, 2)
    assert status["topics"] == {"jobs": {"offset": 2, "lag": 0, "parked": 0, "states": 1, "unknown_types": {}}}


def test_components_run_beside_a_server(site: Site) -> None:
    site.app("""
        @on("orders", start="beginning")
        def bill(event, ctx):
            ctx.emit("bills", {"n": event["n"]})
    """)
    site.stack.start("serve", "serve", "--port", str(site.stack.port), "--components", "app")
    until(site.stack.ready)
    until(lambda: "the worker works" in site.stack.output("serve"))
    assert site.stack.post("orders", {"n": 1}).status == 202
    with site.stack.stream("/v1/topics/bills/events?format=sse&last_event_id=earliest") as stream:
        stream.until(lambda _, data: data.get("n") == 1)
    until(lambda: site.stack.get("/v1/topics/orders/events/$1").json()["life"][-1]["outcome"] == "done")
    assert site.stack.get("/v1/topics/orders/events/$1").json()["life"][-1] == {
        "step": "component", "group": "bill", "outcome": "done"
    }  # fmt: skip
    until(lambda: "pushsvc_component_events_total" in site.stack.get("/metrics").body.decode())
